import inspect

import tactful_streaming


def test_every_public_name_exists_and_the_list_is_sorted() -> None:
    names = tactful_streaming.__all__
    assert sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n)) == names
    assert all(hasattr(tactful_streaming, name) for name in names)


def test_public_classes_and_functions_are_documented() -> None:
    for name in tactful_streaming.__all__:
        member = getattr(tactful_streaming, name)
        if not (inspect.isclass(member) or inspect.isfunction(member)):
            continue
        assert member.__doc__, name
        if inspect.isclass(member):
            for method, function in inspect.getmembers(member, inspect.isfunction):
                own = function.__module__.startswith("tactful_streaming")
                if own and not method.startswith("_"):
                    assert function.__doc__, f"{name}.{method}"


def test_errors_share_one_root() -> None:
    errors = [
        member
        for name in tactful_streaming.__all__
        if inspect.isclass(member := getattr(tactful_streaming, name))
        and issubclass(member, Exception)
    ]
    assert len(errors) > 10
    assert all(issubclass(error, tactful_streaming.StreamingError) for error in errors)
