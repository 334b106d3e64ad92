import pytest

from benchmarks.harness.command_line import (
    add_study_arguments,
    script_parser,
    studies_of,
    subject_parsers,
)
from benchmarks.harness.plans import SMALL, VIT


def test_an_option_of_one_subject_is_refused_by_the_others() -> None:
    parser = script_parser("Measures.")
    subject_parsers(parser, ["fit", "bank"])["fit"].add_argument("--epochs", type=int)
    assert parser.parse_args(["fit", "--epochs", "3"]).epochs == 3
    for words in (["bank", "--epochs", "3"], ["fit", "--ep", "3"], []):
        with pytest.raises(SystemExit):
            parser.parse_args(words)


def test_a_small_study_has_few_images_and_one_epoch() -> None:
    parser = script_parser("Studies.")
    add_study_arguments(parser, only=VIT.key)
    words = ["--products", "a", "b", "--root", "data", "--weights", "random"]
    (whole,) = studies_of(parser.parse_args(words))
    (small,) = studies_of(parser.parse_args([*words, "--small"]))
    assert whole.products == small.products == ("a", "b")
    assert (whole.most_epochs, small.most_epochs) == (None, 1)
    assert small.sources["a"].train_images == SMALL["train_images"]
    assert whole.sources["a"].train_images > SMALL["train_images"]
    assert whole.backbone.arguments["backbone_weights"] == "random"
