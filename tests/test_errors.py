"""Error messages that several modules share."""

from autotrain_env.errors import unknown_name


def test_unknown_name_gives_argument_value_nearest_and_all_known():
    error = unknown_name("dataset", "FashionMNIST", ["mnist", "fashion_mnist", "digits"])
    assert isinstance(error, ValueError)
    assert "dataset='FashionMNIST'" in str(error)
    assert "nearest known one is 'fashion_mnist'" in str(error)
    assert str(error).endswith("Allowed: 'digits', 'fashion_mnist', 'mnist'.")


def test_unknown_name_always_names_a_nearest_one_unless_none_is_known():
    assert "nearest known one is 'a'" in str(unknown_name("kind", "zzz", ["a"]))
    assert str(unknown_name("kind", 3, [])) == "kind=3 is not a known name. Allowed: none."
