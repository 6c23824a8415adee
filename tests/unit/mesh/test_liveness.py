"""Word that the other end is no more: asked for, answered, or believed in time."""

import itertools
import math

import hypothesis
import hypothesis.strategies as st

from meshnode.errors import StreamError
from meshnode.mesh.streams.timers import AGAIN, LEAST, MOST, LivenessCheck

REASON = StreamError("restarted")

WORDS = st.lists(st.floats(0, 20), max_size=60).map(sorted)
TIMEOUTS = st.floats(0, 10)


def play(words, answers, until, probe_timeout=0.1):
    """Let word come at these times, and answers; return when questions went, and the verdict."""
    liveness, now, questions = LivenessCheck(), 0.0, []
    words, answers = list(words), list(answers)
    while now < until:
        if liveness.is_to_ask(now):
            questions.append(now)
        liveness.asked(now, probe_timeout)
        if liveness.verdict(now) is not None:
            return questions, now
        now = min([liveness.next_deadline(), until, *words[:1], *answers[:1]])
        while words and words[0] <= now:
            words.pop(0)
            liveness.begin(REASON, now)
        while answers and answers[0] <= now:
            liveness.heard(answers.pop(0))
    return questions, None


@hypothesis.given(WORDS, TIMEOUTS)
def test_an_end_that_says_nothing_is_given_up_soon_after_the_first_word(words, probe_timeout):
    questions, verdict = play(words, [], 100.0, probe_timeout)
    if words:
        assert questions == words[:1]
        assert words[0] + LEAST <= verdict <= words[0] + MOST
    else:
        assert (questions, verdict) == ([], None)


@hypothesis.given(WORDS, st.floats(0.01, LEAST / 2), TIMEOUTS)
def test_an_end_that_answers_is_never_given_up_whatever_is_said_of_it(words, beat, probe_timeout):
    answers = [n * beat for n in range(math.ceil(40 / beat))]
    questions, verdict = play(words, answers, 30.0, probe_timeout)
    assert verdict is None
    # A question a second at most, however often it is doubted.
    assert all(b >= a + AGAIN for a, b in itertools.pairwise(questions))


def test_what_was_said_before_the_question_is_no_answer():
    liveness = LivenessCheck()
    liveness.begin(REASON, 1.0)
    liveness.heard(1.0)
    assert liveness.is_to_ask(1.0)
    liveness.asked(1.0, 0.0)
    liveness.heard(0.9)
    assert liveness.verdict(1.0 + LEAST) is REASON


def test_time_that_our_own_link_holds_up_the_question_is_not_held_against_the_other_end():
    liveness = LivenessCheck()
    liveness.begin(REASON, 0.0)
    assert liveness.is_to_ask(0.0)
    assert liveness.verdict(10.0) is None
    liveness.asked(10.0, 0.0)
    assert liveness.verdict(10.0) is None
    assert liveness.verdict(10.0 + LEAST) is REASON
