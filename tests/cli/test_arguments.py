from moleflow_pl.cli.arguments import expand_product, option, replace_values, without


def test_the_last_value_of_an_option_counts_in_either_spelling() -> None:
    assert option(["fit", "--ckpt_path", "a"], "--ckpt_path") == "a"
    assert option(["fit", "--ckpt_path=a"], "--ckpt_path") == "a"
    assert option(["fit", "--ckpt_path", "a", "--ckpt_path=b"], "--ckpt_path") == "b"
    assert option(["fit", "--ckpt_path=", "--x"], "--ckpt_path") == ""


def test_an_option_without_a_value_or_with_a_longer_name_has_none() -> None:
    assert option(["fit", "--ckpt_path"], "--ckpt_path") is None
    assert option(["fit", "--ckpt_path_other=a"], "--ckpt_path") is None


def test_only_the_values_of_the_named_option_are_replaced() -> None:
    args = ["a", "--config", "a", "--configs=a", "--other", "a", "--config=a"]
    replaced = ["a", "--config", "A", "--configs=a", "--other", "a", "--config=A"]
    assert replace_values(args, "--config", str.upper) == replaced
    assert args[2] == "a"


def test_an_option_is_removed_with_its_values() -> None:
    args = ["fit", "--ckpt_path=a", "--x", "1", "--ckpt_path", "b", "--ckpt_paths=c"]
    assert without(args, "--ckpt_path") == ["fit", "--x", "1", "--ckpt_paths=c"]


def test_product_is_short_for_the_option_of_the_writer() -> None:
    assert expand_product(["predict", "--product", "a"]) == [
        "predict",
        "--predictions.product",
        "a",
    ]
    assert expand_product(["--predictions.product=--product"]) == [
        "--predictions.product=--product"
    ]
