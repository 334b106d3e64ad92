"""A run that is killed and goes on ends as the one that was not."""

import random

from tests.killing import assert_same_end, draw_moment, run_to_moment
from tests.story import Story, moleflow


def test_run_killed_at_three_moments_ends_as_the_unbroken_one(story: Story) -> None:
    run = story.where / "killed"
    args = story.fit_into(run)
    goes_on = [*args, f"--ckpt_path={run / 'last.ckpt'}"]
    chance = random.Random(0)
    first = {"only": "config.yaml.part", "event": 1, "delay": chance.uniform(0, 0.1)}
    moments = [first, *(draw_moment(chance, story.events, write) for write in (False, True))]
    hits = 0
    for number, moment in enumerate(moments):
        hits += run_to_moment(goes_on if number else args, story.where, moment)
    moleflow(story.where, *goes_on)
    assert hits == 3
    assert_same_end(run, story.moved)
