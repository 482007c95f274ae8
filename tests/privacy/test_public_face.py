"""The public face: what is exported exists, is sorted and is documented."""

import inspect

import tactful_privacy


def test_all_is_sorted_and_complete() -> None:
    names = tactful_privacy.__all__
    assert sorted(names, key=lambda n: (not n.isupper(), n)) == names
    public = {
        name
        for name, value in vars(tactful_privacy).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(tactful_privacy.__all__)


def test_everything_public_is_documented() -> None:
    for name in tactful_privacy.__all__:
        member = getattr(tactful_privacy, name)
        assert inspect.getdoc(member), name
        for attribute, value in vars(member).items() if inspect.isclass(member) else ():
            if not attribute.startswith("_") and (
                inspect.isfunction(value) or isinstance(value, property)
            ):
                assert inspect.getdoc(value), f"{name}.{attribute}"
