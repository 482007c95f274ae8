import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module

import tactful_bandits


def test_every_public_name_exists_once_and_in_order() -> None:
    assert list(tactful_bandits.__all__) == sorted(set(tactful_bandits.__all__))
    assert all(hasattr(tactful_bandits, name) for name in tactful_bandits.__all__)


def test_no_module_hides_a_public_name() -> None:
    # Importing a submodule binds its name in the package, over whatever is loaded when used.
    modules = {info.name for info in pkgutil.iter_modules(tactful_bandits.__path__)}
    assert not modules & {*tactful_bandits.__all__}


def test_everything_public_is_documented() -> None:
    for info in pkgutil.iter_modules(tactful_bandits.__path__, "tactful_bandits."):
        module = import_module(info.name)
        assert module.__doc__, info.name
        for name, member in vars(module).items():
            own = getattr(member, "__module__", None) == info.name
            if own and not name.startswith("_") and (inspect.isclass(member) or callable(member)):
                assert inspect.getdoc(member), f"{info.name}.{name}"


def test_what_every_request_needs_loads_no_statistics() -> None:
    code = (
        "import sys; import tactful_bandits; tactful_bandits.assign; "
        "print(*{m.partition('.')[0] for m in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    heavy = {"scipy", "sklearn", "sqlalchemy", "tactful_privacy", "torch"}
    assert not heavy & {*loaded.decode().split()}
