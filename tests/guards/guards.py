"""The guards: what each protects, how it is cut out, and the tests that must miss it.

Where each stands its marker says, in the source: `guard: ` and its name. The six that the design names come
first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.guards.markers import ALWAYS, GONE, NEVER, UNCHANGED, UNWRAPPED, Cut, cut_out, markers_in

CROWDS = "tests/engine/test_crowds.py::"
RACE = "tests/race/test_races.py::test_the_loser_writes_nothing_and_no_wake_up_is_lost"
STARTS = "tests/race/test_starts.py::"
INPUTS = "tests/engine/test_start_inputs.py::"
RESTARTS = "tests/engine/test_restarts.py::"
CALLBACKS = "tests/engine/test_callbacks.py::"
CORRELATIONS = "tests/engine/test_correlations.py::"
GROUP_COMMIT = "tests/unit/test_group_commit.py::"
EARLY = "tests/store/test_plans_made_early.py::test_a_plan_that_was_made_early_finds_its_rows_by_key[analysed empty]"
VERBS = "tests/store/test_verbs.py::"
SCENARIOS = "tests/engine/test_scenarios.py::"
HANDOFFS = "tests/engine/test_handoffs.py::"
LOST_MESSAGE = f"{HANDOFFS}test_an_action_whose_message_is_lost_is_followed_all_the_same"
INLINE = "tests/engine/test_inline_steps.py::"
ELSEWHERE = "tests/engine/test_elsewhere.py::"
SERVING = "tests/engine/test_serving.py::"
MIGRATE = "tests/engine/test_migrate.py::"
POISON = "tests/engine/test_poison.py::"
AMENDMENTS = "tests/engine/test_amend.py::"
REVISIONS = "tests/engine/test_revisions.py::"
TOGETHER = "tests/engine/test_batch.py::"
HEARTBEATS = "tests/fleet/test_heartbeats.py::"
SERVICES = "tests/fleet/test_services_live.py::"

KEPT = "tests/engine/test_kept_flows.py::"
GATHERS = "tests/engine/test_gathers.py::"
AT_MOST_ONCE = "tests/engine/test_at_most_once.py::"
BEATS = "tests/engine/test_stage_heartbeats.py::"
POLICIES = "tests/engine/test_retry_policies.py::"
CHILDREN = "tests/engine/test_children.py::"
CHILDREN_RACE = "tests/race/test_children.py::"
EAGER = "tests/engine/test_eager_execution.py::"
RETRY = "tests/engine/test_retry.py::"
RE_ENTRY = "tests/race/test_re_entry.py::"
ASKINGS = "tests/testing/test_askings.py::"
BULK = "tests/engine/test_bulk.py::"
VOTES = "tests/engine/test_votes.py::"
ASYNC = "tests/testing/test_async_stages.py::"
ASYNC_FLEET = "tests/fleet/test_async_stages.py::"
SAGAS = "tests/testing/test_sagas.py::"
CANCELLING = "tests/testing/test_cancelling.py::"
EXHAUSTED = "tests/testing/test_on_exhausted.py::"
WRONG = "tests/unit/test_wrong_flows.py::"

HOOKS = "tests/testing/test_hooks.py::"
SCHEMA = "tests/store/test_schema.py::"
RIGHTS = "tests/store/test_rights.py::test_who_may_only_read_takes_nothing_out_of_a_run"
TWO_RECORDS = "tests/schema/test_two_records.py::"

A_REFUSAL = ("AssertionError", "Failed", "PerennialError", "IntegrityError")
"""A test asserts, or what should have been raised was not; the engine says no, or a constraint does."""


def in_normal_mode(test: str) -> str:
    """Tests of the engine run in all modes (tests/modes.py); one of them is enough to miss a guard."""
    if not test.startswith("tests/engine/"):
        return test
    name, _, parameters = test.rstrip("]").partition("[")
    return f"{name}[normal-{parameters}]" if parameters else f"{name}[normal]"


@dataclass(frozen=True)
class Guard:
    """A piece of source that must not be missed by nobody: what its marker marks.

    `cut`: how it is cut out (tests/guards/markers.py).
    `shows_as`: the errors by which its tests fail without it.
    """

    name: str
    protects: str
    tests: tuple[str, ...]
    cut: Cut = GONE
    shows_as: tuple[str, ...] = A_REFUSAL

    def __post_init__(self) -> None:
        object.__setattr__(self, "tests", tuple(map(in_normal_mode, self.tests)))

    def file_in(self, root: Path) -> str:
        """Where it stands. Raises KeyError if it stands nowhere."""
        return markers_in(root)[self.name].file

    def cut_out_of(self, root: Path) -> Path:
        """Change its file in that copy of the repository."""
        return cut_out(root, self.name, self.cut)

    def is_missed_by(self, died_of: list[str], says: str) -> bool:
        """True if a test that died so misses this guard. A test that hangs misses nothing."""
        return bool(set(self.shows_as) & set(died_of)) and not says.startswith("Timeout")


GUARDS = [
    # -- the six ---------------------------------------------------------------------------------
    Guard(
        "attempt fence",
        "A result that a lost attempt brings late moves nothing.",
        (f"{RACE}[a_stale_attempt_commits_after_it_was_handed_out_again]",),
    ),
    Guard(
        "revision check",
        "A turn commits only over the facts that it has read.",
        (
            f"{RACE}[two_turns_of_one_revision]",
            f"{RACE}[a_signal_while_a_turn_decides]",
            f"{RACE}[a_turn_that_is_refused]",
        ),
    ),
    Guard(
        "outbox in the transaction",
        "What a turn hands off is in the record with the turn, whoever dies before it is sent.",
        (f"{LOST_MESSAGE}[handed_on_by_a_turn]", f"{SCENARIOS}test_every_message_may_be_lost"),
    ),
    Guard(
        "signal deduplication",
        "A signal that is sent twice at once, with one id, is there once.",
        (f"{RACE}[one_signal_sent_twice_at_once]",),
    ),
    Guard(
        "a run holds so many signals",
        "Whoever sends without end fills neither the record nor the memory of a turn.",
        ("tests/engine/test_waits.py::test_a_run_holds_no_more_signals_than_it_may",),
    ),
    Guard(
        "a token counts once",
        "Of two answers by one token, the second writes nothing and is told who was first.",
        (f"{CALLBACKS}test_two_partners_that_answer_at_once_have_one_winner",),
    ),
    Guard(
        "each attempt hands on one token",
        "A partner that is asked twice is given the same token, so that the second request is the first.",
        (f"{CALLBACKS}test_each_attempt_hands_on_one_token_which_the_record_forgets",),
    ),
    Guard(
        "a token is of one asking",
        "A token of a stage that was taken back answers nothing.",
        (f"{CALLBACKS}test_a_token_is_of_one_asking",),
    ),
    Guard(
        "a timer that was put off does not fire",
        "A heartbeat that comes as its deadline fires is heard.",
        (f"{CALLBACKS}test_a_heartbeat_that_comes_as_its_deadline_fires_is_heard",),
    ),
    Guard(
        "a step that was begun once is not called again",
        "What is called at most once isn't, where nobody knows how its first call ended.",
        (f"{AT_MOST_ONCE}test_a_step_whose_worker_died_in_it_is_not_called_again",),
    ),
    Guard(
        "what is done at most once is not given back",
        "A worker that shuts down lets nobody do again what is done at most once.",
        (f"{ASYNC_FLEET}test_what_is_done_at_most_once_is_not_given_back_to_another_worker",),
        shows_as=(*A_REFUSAL, "TypeError"),
    ),
    Guard(
        "a stage that says nothing for too long is lost",
        "A stage that hangs in a living process is tried again before its timeout.",
        (f"{BEATS}test_a_stage_that_says_nothing_for_too_long_has_failed_that_attempt[2]",),
    ),
    Guard(
        "a heartbeat is of an attempt that is still its worker's",
        "An attempt that was handed out again ends at its next heartbeat.",
        (f"{BEATS}test_a_stage_that_says_nothing_for_too_long_has_failed_that_attempt[2]",),
    ),
    Guard(
        "heartbeats are written now and then",
        "A stage may say how far it has come as often as it likes.",
        (f"{BEATS}test_the_next_attempt_finds_how_far_the_one_before_has_come[def]",),
    ),
    Guard(
        "no attempt after the total duration",
        "A retry that would begin after Retry(give_up_after) isn't made.",
        (f"{POLICIES}test_no_attempt_begins_after_the_total_duration",),
    ),
    Guard(
        "a retry_on that raises loses no attempt",
        "An author's function that raises while it judges an error doesn't keep that error from the record.",
        (f"{POLICIES}test_a_function_that_judges_errors_and_raises_loses_no_attempt",),
        shows_as=("KeyError",),
    ),
    Guard(
        "one run claims a correlation key",
        "A signal by a key has one run that it is for.",
        (f"{CORRELATIONS}test_a_key_belongs_to_one_run_at_a_time",),
    ),
    Guard(
        "a kept signal is handed over once",
        "A second wait for a key doesn't get what the first has had.",
        (f"{CORRELATIONS}test_a_kept_signal_is_handed_over_to_one_wait",),
    ),
    Guard(
        "a kept signal comes after the turn that asks for it",
        "A kept signal stands in the run after all that the turn has seen that asks for it.",
        (f"{CORRELATIONS}test_a_kept_signal_comes_after_what_the_turn_has_seen_that_asks_for_it",),
    ),
    Guard(
        "a token that could not be had is no mismatch",
        "Where Postgres is away while a token is handed on, the run is not parked for it.",
        (
            (
                "tests/engine/test_record_away.py::"
                "test_a_stage_whose_token_could_not_be_had_is_no_mismatch[before]"
            ),
        ),
    ),
    Guard(
        "a signal is kept on the claim that was read",
        "A signal is not laid on a key whose run waits for it already.",
        (
            f"{CORRELATIONS}test_a_claim_that_comes_between_the_look_and_the_keeping_gets_the_signal",
        ),
    ),
    Guard(
        "a kept signal is kept once",
        "A signal that is sent twice with one id, before its run begins, is there once.",
        (f"{CORRELATIONS}test_a_signal_that_is_kept_twice_at_once_is_there_once",),
    ),
    Guard(
        "what was kept is read",
        "A wait that claims a key goes on with what was sent before it.",
        (f"{CORRELATIONS}test_a_claim_waits_for_who_is_keeping_a_signal_and_gets_it",),
    ),
    Guard(
        "turn exclusivity",
        "While one worker is inside a turn's step, no other commits a turn of that run.",
        (f"{RACE}[a_turn_commits_while_another_holds_it]",),
    ),
    Guard(
        "epoch check",
        "When Redis was emptied, timers and messages are put back from Postgres.",
        (f"{SERVICES}test_a_timer_dispatcher_that_finds_no_epoch_puts_timers_and_handoffs_back",),
    ),
    # -- attempts --------------------------------------------------------------------------------
    Guard(
        "attempt fence of a result without a turn",
        "A worker that can't take the turn records no result of an attempt it has lost.",
        (f"{RACE}[a_stale_attempt_settles_while_it_is_handed_out_again]",),
    ),
    Guard(
        "attempt fence of a failure",
        "A lost attempt that fails late neither uses up the next one nor arms a timer.",
        (f"{RACE}[a_stale_attempt_fails_while_it_is_handed_out_again]",),
    ),
    Guard(
        "claim of a pending attempt",
        "Of two workers with one message, one does the work.",
        (
            f"{RACE}[two_claims_of_one_attempt]",
            f"{RACE}[a_claim_after_a_cancellation]",
            f"{RACE}[a_claim_after_the_turn_that_closed_its_run]",
            f"{VERBS}test_only_a_pending_attempt_is_claimed[claimed]",
            f"{VERBS}test_only_a_pending_attempt_is_claimed[retrying]",
        ),
    ),
    Guard(
        "claim of the attempt that is due",
        "The late message of an earlier attempt claims nothing.",
        (f"{VERBS}test_only_the_attempt_that_is_due_is_claimed[1]",),
    ),
    Guard(
        "claim fence on the run's status",
        "No stage of a paused or parked run begins.",
        (f"{SCENARIOS}test_no_stage_of_a_paused_run_is_claimed",),
    ),
    Guard(
        "one recovery of a lost attempt",
        "Two sweeps that find one dead worker hand its attempt out once.",
        (f"{RACE}[two_recoveries_of_one_attempt]",),
    ),
    Guard(
        "fence of handing out again",
        "Only the attempt that was lost is followed by another.",
        (f"{VERBS}test_a_lost_attempt_is_handed_out_or_failed_once",),
    ),
    Guard(
        "end of what is at work",
        "A run that ends, by its flow or from outside, leaves no stage behind that is still claimed.",
        (
            f"{RACE}[a_turn_that_closes_a_run_after_a_claim]",
            f"{RACE}[a_cancellation_after_a_claim]",
            f"{SCENARIOS}test_a_cancellation_fences_the_stage_that_is_at_work[returns]",
        ),
    ),
    Guard(
        "activities go before their handoffs",
        "A claim and the end of its run never wait for each other in a circle.",
        ("tests/store/test_lock_order.py::test_a_handoff_goes_after_its_activity_as_in_a_claim",),
    ),
    # -- steps of a stage ------------------------------------------------------------------------
    Guard(
        "step memory",
        "A step that was recorded is not called again by a later attempt.",
        (f"{SCENARIOS}test_a_step_that_was_recorded_is_never_called_again",),
    ),
    Guard(
        "step memory of an async stage",
        "The same of a step that is awaited.",
        (f"{ASYNC}test_async_stages_and_steps_share_one_loop_and_are_remembered",),
    ),
    Guard(
        "a hook's error changes no outcome",
        "A plug-in that raises fails no stage, no turn and no worker.",
        (
            f"{HOOKS}test_a_hook_may_raise_whatever_it_likes[no-text]",
            f"{HOOKS}test_what_a_hook_raises_changes_no_outcome_and_is_counted[CancelledError-before_attempt]",
        ),
    ),
    Guard(
        "a hook that raises what it was given leaves it as it was",
        "An attempt's error is recorded with the traceback that its author's code has left.",
        (
            f"{HOOKS}test_what_a_hook_raises_changes_no_outcome_and_is_counted[what it was given-after_attempt]",
        ),
    ),
    Guard(
        "who ends a wait cancels what it waits for",
        "A stage whose time is over doesn't go on in secret.",
        (f"{ASYNC}test_who_ends_its_wait_cancels_it",),
    ),
    Guard(
        "so many async stages at once",
        "No more coroutines than the setting says are under way in a process.",
        (
            f"{ASYNC_FLEET}test_as_many_as_are_stated_are_awaited_side_by_side_and_the_next_waits_for_a_place",
        ),
    ),
    Guard(
        "an async stage whose end is not recorded falls silent",
        "A claim whose end can't be recorded is handed out again, though its process lives.",
        (f"{ASYNC_FLEET}test_one_whose_end_is_not_recorded_falls_silent",),
    ),
    Guard(
        "others wait for no coroutine",
        "A worker that goes on with many runs doesn't wait for the coroutine of one of them.",
        (f"{ASYNC_FLEET}test_a_message_only_begins_it_and_its_end_is_told_when_it_has_ended[5]",),
    ),
    Guard(
        "memory of a stage's steps",
        "An attempt is given what earlier ones have recorded.",
        (f"{SCENARIOS}test_a_step_that_was_recorded_is_never_called_again",),
    ),
    Guard(
        "step memory fence",
        "An attempt that was handed out again remembers no more steps.",
        (
            f"{VERBS}test_a_step_is_remembered_for_the_claimed_attempt_alone[claimed-2]",
            f"{VERBS}test_a_step_is_remembered_for_the_claimed_attempt_alone[retrying-1]",
        ),
    ),
    Guard(
        "step memory lock",
        "The same where it is handed out again at that very moment.",
        (f"{RACE}[a_step_is_recorded_while_its_attempt_is_handed_out_again]",),
    ),
    Guard(
        "stop of a lost attempt",
        "A worker whose attempt was taken stops at its next step.",
        (f"{SCENARIOS}test_a_cancellation_fences_the_stage_that_is_at_work[steps]",),
    ),
    Guard(
        "errors of the record are no stage's",
        "A step that could not be recorded is no failure of its stage, and stages can't catch it.",
        (
            (
                "tests/engine/test_record_away.py::"
                "test_a_stage_whose_step_could_not_be_recorded_has_not_failed[1-before]"
            ),
        ),
    ),
    # -- facts and revisions ---------------------------------------------------------------------
    Guard(
        "revision of a fact from outside",
        "A turn that decides while a signal comes, or a person decides, decides again.",
        (
            f"{RACE}[a_signal_while_a_turn_decides]",
            f"{VERBS}test_every_fact_raises_the_revision",
            f"{SCENARIOS}test_an_approval_escalates_and_then_others_may_decide",
        ),
        cut=UNCHANGED,
    ),
    Guard(
        "revision of a timer",
        "A turn that decides while a timer fires decides again.",
        (
            f"{SCENARIOS}test_a_sleep_ends_when_its_time_has_come_and_not_before",
            f"{VERBS}test_every_fact_raises_the_revision",
        ),
        cut=UNCHANGED,
    ),
    Guard(
        "revision of an inline step",
        "A turn that read before a step was recorded finds it, and doesn't call it again.",
        (f"{RACE}[a_turn_is_held_that_was_read_before_a_step_was_recorded]",),
        cut=UNCHANGED,
    ),
    Guard(
        "rest of a paused run",
        "A turn that was deciding when its run was paused commits nothing.",
        (f"{RACE}[a_turn_commits_after_its_run_was_paused]",),
    ),
    Guard(
        "order of facts",
        "Answers come in the order in which their facts were recorded.",
        (
            (
                "tests/unit/test_order_of_facts.py::"
                "test_a_signal_has_the_place_of_its_coming_not_of_its_consumption"
            ),
        ),
        cut="None",
    ),
    Guard(
        "order of facts that have no place",
        "What a release of before has recorded comes in the order of its times.",
        (
            (
                "tests/unit/test_order_of_facts.py::"
                "test_facts_that_were_recorded_before_they_had_a_place_come_in_the_order_of_their_times"
            ),
        ),
        cut="None",
    ),
    # -- handoffs --------------------------------------------------------------------------------
    Guard(
        "handoffs under the turn's fence",
        "A turn that is refused hands nothing off.",
        (f"{RACE}[a_turn_that_is_refused]",),
    ),
    Guard(
        "advance kept until a turn",
        "Only the turn that has seen a fact forgets the message that asked for it.",
        (f"{RACE}[a_turn_that_is_refused]",),
    ),
    Guard(
        "advance of a turn that goes on",
        "Between a stage's end and the inline step after it a worker may die.",
        (f"{SCENARIOS}test_a_killed_worker_between_commit_and_step_loses_nothing",),
    ),
    Guard(
        "sent again after relay_after",
        "What was sent and lost is sent again, soon at first: a relay puts a handoff off, and forgets nothing.",
        (
            f"{HANDOFFS}test_a_message_that_is_lost_again_and_again_is_sent_again",
            f"{VERBS}test_a_handoff_that_nobody_claims_is_sent_again_at_growing_intervals",
        ),
        cut="'2050-01-01'",
    ),
    Guard(
        "a rebuild waits for nobody",
        "After a loss of Redis a producer's open transaction holds up all timers.",
        (
            (
                "tests/engine/test_overload.py::"
                "test_a_rebuild_waits_for_no_producer_and_makes_the_others_handoffs_due"
            ),
        ),
    ),
    Guard(
        "relays share",
        "Two relays at once neither send a handoff twice nor wait for each other.",
        (f"{RACE}[two_relays_share_what_is_due]",),
        shows_as=("LockNotAvailable",),
    ),
    Guard(
        "a claim takes its own handoff",
        "The messages of a run's other stages stay in the outbox.",
        (f"{VERBS}test_a_claim_takes_its_own_handoff_and_leaves_the_others",),
    ),
    Guard(
        "only what is stale is forgotten",
        "A message that found nothing to do doesn't take the handoff of an attempt that is due.",
        (
            (
                f"{HANDOFFS}"
                "test_a_message_that_comes_while_its_run_is_resumed_does_not_take_the_handoff"
            ),
        ),
    ),
    Guard(
        "a long queue is waited for no longer",
        "What was lost on a queue that never gets short is sent again all the same.",
        (
            (
                f"{HANDOFFS}test_a_long_queue_is_not_made_longer"
                "_and_yet_nothing_lost_on_it_is_lost_for_ever"
            ),
        ),
        cut="1_000_000_000",
    ),
    Guard(
        "handoff of a start",
        "A run that has started gets its first turn, though its producer dies.",
        (
            f"{LOST_MESSAGE}[started]",
            f"{SCENARIOS}test_a_start_is_part_of_its_callers_transaction[True-psycopg]",
        ),
        cut=NEVER,
    ),
    Guard(
        "handoff of a fact from outside",
        "A signal and a decision get their turns, though the sender dies.",
        (f"{LOST_MESSAGE}[signalled]", f"{LOST_MESSAGE}[decided]"),
        cut=NEVER,
    ),
    Guard(
        "handoff of a result without a turn",
        "A stage's result gets its turn, though the worker that recorded it dies.",
        (f"{LOST_MESSAGE}[settled_without_a_turn]",),
        cut=NEVER,
    ),
    Guard(
        "a step of a turn that was lost is known",
        "Whoever keeps the flow of a run reads its journal again, where a lost turn has added a step.",
        (f"{KEPT}test_a_step_of_a_turn_that_was_lost_is_known",),
    ),
    Guard(
        "a journal that an operator has rewritten is read again",
        "Whoever keeps the flow of a run does not go on from what an operator has taken out of its journal.",
        (f"{KEPT}test_a_journal_that_an_operator_has_rewritten_is_read_again",),
    ),
    Guard(
        "a count of an earlier turn",
        "A worker of another release took a turn and counts nothing: the last stage's end asks for one all the same.",
        (f"{GATHERS}test_a_turn_of_another_release_ends_the_count",),
        cut="true",
    ),
    Guard(
        "handoff of a fired timer",
        "A timer that has fired gets its turn, though its message's worker dies.",
        (f"{LOST_MESSAGE}[woken_by_a_timer]",),
        cut=NEVER,
    ),
    Guard(
        "handoff of a retry",
        "An attempt that is due again is made, though the message is lost.",
        (f"{LOST_MESSAGE}[due_for_a_retry]",),
        cut=NEVER,
    ),
    Guard(
        "handoff of a recovered attempt",
        "What a dead worker had claimed is done, though the message is lost.",
        (f"{LOST_MESSAGE}[lost_with_its_worker]",),
    ),
    Guard(
        "handoff of a timed-out stage",
        "The flow hears that a stage has failed, though the message is lost.",
        (f"{LOST_MESSAGE}[overrun_at_the_last_attempt]",),
        cut="None",
    ),
    Guard(
        "handoff of a resumed run",
        "A run that is resumed moves on, whatever a turn saw a moment before.",
        (f"{RACE}[a_turn_that_looks_while_its_run_is_resumed]",),
        cut=NEVER,
    ),
    # -- re-entry --------------------------------------------------------------------------------
    Guard(
        "handoff of a run that is re-entered",
        "A run that an operator lets go on gets its turn.",
        (f"{RETRY}test_a_failed_run_goes_on_from_where_it_failed",),
        cut=NEVER,
    ),
    Guard(
        "an operator's verb changes the run that it has read",
        "What was decided on is what is changed.",
        (f"{RE_ENTRY}test_a_verb_changes_the_run_that_it_has_read",),
    ),
    Guard(
        "a claim waits for an operator's verb",
        "A stage that an operator gives its end is not claimed meanwhile.",
        (f"{RE_ENTRY}test_a_claim_waits_for_an_operators_verb",),
    ),
    Guard(
        "what is worked on gets no end by hand",
        "A worker's result is not lost to an operator's.",
        ("tests/engine/test_settle_by_hand.py::TestRefusals::test_of_what_is_worked_on",),
    ),
    Guard(
        "what is worked on is not rewound",
        "A worker's result is not lost to an operator's.",
        ("tests/engine/test_rewind.py::test_each_refusal_says_what_to_do_instead",),
    ),
    Guard(
        "the turn of a run that goes on again is not forgotten",
        "A message that found its run ended takes no turn away that an operator has asked for since.",
        (f"{RE_ENTRY}test_a_message_that_found_its_run_ended_forgets_no_turn",),
    ),
    Guard(
        "a copy is of the run that was read",
        "What was decided on is what is copied.",
        (f"{RE_ENTRY}test_a_copy_is_of_the_run_that_was_read",),
    ),
    Guard(
        "handoff of a copy",
        "A copy of a run gets its first turn.",
        ("tests/engine/test_fork.py::test_what_is_open_is_asked_for_anew_in_the_copy",),
        cut=NEVER,
    ),
    Guard(
        "a decision on an asking of before is no decision on this one",
        "A yes to what was taken back is no yes to what is asked anew.",
        ("tests/engine/test_rewind.py::test_a_decision_on_what_was_asked_before_is_refused",),
        cut="0",
    ),
    Guard(
        "an operation is applied to a run once",
        "A command that is called again after a crash does nothing twice.",
        (f"{RE_ENTRY}test_two_operators_retry_a_run_at_once[op-7]",),
    ),
    Guard(
        "what was previewed is what is done",
        "An operator's yes is to what was shown.",
        (f"{RETRY}TestRefusals::test_a_stale_preview_and_a_second_operation_do_nothing",),
    ),
    Guard(
        "attempts go on after a re-entry",
        "A worker of before, and a message of before, reach nothing.",
        (f"{RETRY}test_attempts_of_before_reach_nothing",),
        cut="1",
    ),
    Guard(
        "steps of earlier attempts are read by a claim",
        "A step that was recorded is not called again by a stage that is retried.",
        (f"{EAGER}test_a_stage_with_steps_of_before_is_not_taken_over",),
    ),
    # -- turns -----------------------------------------------------------------------------------
    Guard(
        "one holder of a turn",
        "Two workers are never inside one inline step.",
        (
            f"{RACE}[two_workers_hold_one_turn]",
            f"{VERBS}test_a_turn_is_held_by_one_until_it_is_released",
        ),
    ),
    Guard(
        "hold of the revision that was read",
        "A step is called on facts that nothing has overtaken.",
        (f"{RACE}[a_turn_is_held_while_a_fact_comes]",),
    ),
    Guard(
        "hold of a run that moves",
        "No step of a paused or parked run is called.",
        (
            f"{VERBS}test_the_turn_of_a_run_that_does_not_move_is_not_held[paused]",
            f"{VERBS}test_the_turn_of_a_run_that_does_not_move_is_not_held[incident]",
        ),
    ),
    Guard(
        "a hold is a sign of life",
        "A worker that has just taken a turn, and not beaten yet, keeps it.",
        (
            f"{INLINE}test_a_turn_held_by_a_worker_that_has_not_beaten_yet_is_not_free",
            f"{VERBS}test_a_held_turn_is_freed_when_its_worker_has_been_silent_for_long[1-None-False]",
        ),
    ),
    Guard(
        "a beating holder keeps its turn",
        "A step may take longer than a dead worker is waited for.",
        (
            f"{VERBS}test_a_held_turn_is_freed_when_its_worker_has_been_silent_for_long[7-1-False]",
            (
                f"{VERBS}test_a_held_turn_is_freed_when_its_worker_has_been_silent_for_long"
                "[3600-2-False]"
            ),
        ),
    ),
    Guard(
        "inline step's turn token",
        "A worker whose turn was taken over records no step.",
        (f"{RACE}[an_inline_step_is_recorded_after_its_turn_was_taken_over]",),
    ),
    Guard(
        "facts before steps",
        "An inline step is called only when the stage's result it stands on is recorded.",
        (f"{INLINE}test_a_step_is_not_recorded_on_a_result_that_is_not",),
        cut="True",
    ),
    Guard(
        "signals before steps",
        "An inline step is called only when the signal it stands on is recorded as taken.",
        (f"{INLINE}test_a_step_is_not_called_on_a_signal_that_is_not_recorded_as_taken[True]",),
    ),
    Guard(
        "unfit signals answer nobody",
        "A signal of the wrong form is set aside, and the next one answers the wait.",
        (
            (
                "tests/engine/test_signals.py::"
                "test_a_signal_of_the_wrong_form_is_set_aside_in_sight_and_the_next_is_taken"
            ),
        ),
    ),
    Guard(
        "asked before performed",
        "An inline step is called only when all that the flow has asked for is recorded.",
        (f"{INLINE}test_a_decision_is_taken_while_the_step_that_mailed_its_link_still_runs",),
    ),
    Guard(
        "no step after an unseen fact",
        "A fact that came before a step was recorded is seen before the flow goes on.",
        (
            f"{INLINE}test_a_fact_that_came_before_a_step_was_recorded_is_seen_before_the_flow_goes_on",
        ),
    ),
    Guard(
        "errors of the record are no flow's",
        "A flow whose step could not be recorded is no incident: its turn is left.",
        (
            (
                "tests/engine/test_record_away.py::"
                "test_a_flow_whose_step_could_not_be_recorded_is_no_incident[place0-1]"
            ),
        ),
    ),
    # -- signals ---------------------------------------------------------------------------------
    Guard(
        "a known signal is no fact",
        "A signal that is sent again raises no revision, and asks for no turn.",
        (f"{VERBS}test_what_is_refused_raises_nothing",),
    ),
    Guard(
        "a signal answers one wait",
        "A signal that was consumed is not given to the next wait.",
        (f"{SCENARIOS}test_signals_are_buffered_and_deduplicated",),
    ),
    Guard(
        "no fact from outside reaches a closed run",
        "Whoever signals a run that has ended is told so.",
        (f"{RACE}[a_signal_to_a_run_that_is_being_cancelled]",),
    ),
    Guard(
        "a wait is answered from outside once",
        "Of two who answer one wait at the same moment, the second is told that it is over.",
        (f"{RACE}[two_answers_at_once]",),
    ),
    # -- starts ----------------------------------------------------------------------------------
    Guard(
        "business key uniqueness",
        "Starting twice with one key starts one run.",
        (
            f"{SCENARIOS}test_a_business_key_starts_one_run",
            f"{RACE}[two_starts_with_one_key]",
        ),
    ),
    Guard(
        "a start that has lost finds the run",
        "Of two starts at once with one key, both get the one run.",
        (f"{RACE}[two_starts_with_one_key]",),
        shows_as=("KeyError",),
    ),
    Guard(
        "order of starts",
        "Two batches with the same keys don't wait for each other.",
        (f"{STARTS}test_two_batches_of_starts_in_opposite_order_do_not_deadlock",),
        shows_as=("DeadlockDetected",),
    ),
    Guard(
        "who starts anew second finds the new run",
        "Of two callers that start anew under one key, both get the one new run.",
        (f"{RESTARTS}test_of_two_that_start_anew_at_once_one_does[start]",),
    ),
    Guard(
        "lock timeout of starts of several",
        "A key that somebody's open transaction holds keeps no other thread waiting.",
        (f"{STARTS}test_starts_that_wait_for_their_keys_leave_room_for_others",),
    ),
    Guard(
        "a start that is refused among others",
        "What Postgres refuses of one thread's start, the others don't hear of.",
        (f"{STARTS}test_what_postgres_refuses_of_one_thread_the_others_do_not_hear_of",),
        shows_as=("DataError",),
    ),
    Guard(
        "a start that waits gives its place up",
        "However many starts wait for their keys, others find room.",
        (f"{STARTS}test_starts_that_wait_for_their_keys_leave_room_for_others",),
        shows_as=("OperationalError",),
    ),
    Guard(
        "the lock timeout ends with its statement",
        "The commit of starts that go together waits for other commits, however long.",
        (f"{STARTS}test_the_lock_timeout_ends_with_the_statement[k]",),
        cut="true",
    ),
    Guard(
        "a start that is there already",
        "Who started together with others is told of its run, though whoever asked for all was ended.",
        (
            f"{STARTS}test_when_who_asks_for_all_is_ended_after_the_commit_the_others_have_started[None]",
        ),
        shows_as=("IntegrityError",),
    ),
    Guard(
        "no answer is no run",
        "What the record refuses is not taken for a run that is there.",
        (f"{STARTS}test_what_the_record_refuses_is_not_taken_for_a_run_that_is_there",),
    ),
    Guard(
        "plans made early, of runs",
        "A plan that was made while there were few runs doesn't read all of them later.",
        (EARLY,),
    ),
    Guard(
        "plans made early, of turns that are held",
        "Nor does that of a turn's hold.",
        (EARLY,),
    ),
    Guard(
        "plans made early, of the backlog",
        "A plan that was made while the outbox was empty doesn't read a backlog.",
        (EARLY,),
    ),
    Guard(
        "plans made early, of deadlines",
        "A plan that was made while no timer was armed doesn't read all that are.",
        (EARLY,),
    ),
    Guard(
        "a start within a start",
        "A listener of a start that starts a run waits for nobody: not for itself.",
        (f"{GROUP_COMMIT}test_who_asks_in_the_midst_of_asking_for_others_asks_alone",),
    ),
    Guard(
        "a place is given up twice",
        "A signal's exception in the midst of giving a place up leaves nobody behind.",
        (f"{GROUP_COMMIT}test_a_signal_that_ends_an_ask_at_any_moment_leaves_the_way_free",),
    ),
    Guard(
        "one key once in a statement",
        "Of several threads that start one key, one has created its run.",
        (f"{STARTS}test_a_key_that_several_threads_start_at_once_is_one_run",),
        cut=ALWAYS,
    ),
    Guard(
        "the next asks for the rest",
        "When a thread has asked for others, whoever came meanwhile is asked for too.",
        (f"{GROUP_COMMIT}test_who_comes_while_those_ask_goes_next",),
        cut="(False, False)",
    ),
    Guard(
        "a fork begins anew",
        "A forked producer waits for no thread of its parent's.",
        (f"{GROUP_COMMIT}test_a_forked_process_waits_for_nobody_of_its_parents",),
    ),
    Guard(
        "a deployed version keeps its content",
        "Runs of a version are never moved by other code that claims to be it.",
        (f"{SCENARIOS}test_a_deployed_version_keeps_its_content",),
    ),
    Guard(
        "a run is moved by the code that it stands on",
        "Other code under the same version would contradict its journal, or go on from it by another way.",
        (f"{REVISIONS}test_a_worker_with_other_code_leaves_the_turn_and_says_so_once",),
    ),
    Guard(
        "revisions are not read at each message",
        "A worker whose code differs asks the record for each message that it leaves.",
        (f"{REVISIONS}test_what_differs_is_not_read_at_each_message",),
    ),
    Guard(
        "a run is amended as it was checked",
        "It would go on with code that its journal contradicts by then.",
        (f"{AMENDMENTS}test_a_run_that_moved_since_it_was_checked_is_checked_again",),
    ),
    Guard(
        "a run is not amended in a turn",
        "What its worker records next was not checked.",
        (f"{AMENDMENTS}test_a_run_in_its_turn_is_left_for_a_later_call",),
    ),
    Guard(
        "handoff of a run that is amended",
        "A paused run's turn would be sent again and again, and moved by nobody.",
        (f"{AMENDMENTS}test_one_that_rests_is_handed_off_when_it_is_resumed",),
    ),
    Guard(
        "only what moves is parked",
        "A run that its operator has paused would be resumed as an incident.",
        (f"{AMENDMENTS}test_a_run_that_is_paused_as_it_is_to_be_parked_stays_paused",),
    ),
    Guard(
        "only a run without a past begins anew",
        "A run would be moved by code that was never tried on its journal.",
        (f"{AMENDMENTS}test_a_run_that_has_had_no_turn_takes_the_content_that_is_current",),
    ),
    Guard(
        "what was confirmed is done",
        "Runs that nobody was shown would be stranded.",
        (f"{AMENDMENTS}test_what_was_confirmed_is_done_and_nothing_else",),
    ),
    Guard(
        "an amendment of the revision that was shown",
        "Nobody amends over what somebody else has amended since.",
        ("tests/engine/test_amend.py::test_of_two_amendments_of_one_revision_one_is_made",),
    ),
    Guard(
        "a version whose first run is being started",
        "It is held by a start that has not committed.",
        ("tests/engine/test_deploy.py::test_a_start_that_is_not_committed_yet_holds_its_version",),
    ),
    # -- children --------------------------------------------------------------------------------
    Guard(
        "a child ends in a statement of its own",
        "A statement of many runs waits for no parent.",
        (f"{CHILDREN_RACE}test_a_child_among_several_runs_ends_in_a_statement_of_its_own",),
        shows_as=("LockNotAvailable", "DeadlockDetected"),
    ),
    Guard(
        "a child of itself without bound",
        "A process that starts itself without an end is parked where the bound is.",
        (f"{CHILDREN}test_a_child_of_itself_without_bound_is_refused",),
    ),
    Guard(
        "handoff of a child",
        "A child gets its first turn, though the worker dies that has started it.",
        (f"{CHILDREN}test_a_child_gets_its_turn_though_its_worker_is_lost",),
        cut=NEVER,
    ),
    Guard(
        "handoff of children that are needed no more",
        "A child that a race is over without is ended, though the worker dies that has decided it.",
        (f"{CHILDREN}test_a_loser_is_ended_though_its_worker_is_lost",),
        cut=NEVER,
    ),
    Guard(
        "a child that was abandoned goes on",
        "Its author has chosen that it goes on by itself.",
        (f"{CHILDREN}test_a_child_that_is_needed_no_more_is_ended_or_goes_on",),
    ),
    Guard(
        "a child that is awaited is not ended",
        "Of several children those alone are ended that the flow needs no more.",
        (f"{CHILDREN}test_a_child_that_is_needed_no_more_is_ended_or_goes_on",),
    ),
    Guard(
        "children that are needed no more since are seen to",
        "Whoever has looked before doesn't take that handoff away.",
        (f"{CHILDREN_RACE}test_children_that_are_needed_no_more_since_are_seen_to",),
    ),
    Guard(
        "children are seen to though their parent is at rest",
        "A parent that has ended takes no turns, and its children are ended all the same.",
        (
            f"{CHILDREN}test_the_end_of_a_parent_does_to_its_children_what_was_chosen[cancel-cancel]",
        ),
    ),
    Guard(
        "a child is checked anew",
        "A process that was deployed anew since may take something else.",
        (f"{CHILDREN_RACE}test_a_child_whose_process_was_changed_since_is_looked_at_again",),
    ),
    Guard(
        "children of what is asked anew are ended",
        "A rewound parent waits for another child.",
        (f"{CHILDREN}test_a_rewound_parent_asks_for_a_child_anew_and_the_former_one_is_ended",),
        cut=NEVER,
    ),
    Guard(
        "an input is checked by what is deployed now",
        "What a producer knows of a process may be old.",
        (f"{INPUTS}test_a_start_by_name_is_checked_by_the_version_that_is_started",),
        cut="true",
    ),
    # -- approvals -------------------------------------------------------------------------------
    Guard(
        "an approval is decided once",
        "Of two decisions, or a decision and a timeout, the first counts.",
        (
            f"{RACE}[two_decisions_at_once]",
            f"{RACE}[two_decisions_of_one_person_at_once]",
            f"{RACE}[a_decision_while_its_approval_times_out]",
        ),
        cut="true",
    ),
    Guard(
        "votes are counted under the run's lock",
        "Of two votes at once, the second sees the first.",
        (f"{RACE}[two_votes_at_once]",),
    ),
    Guard(
        "one vote does not stand for several",
        "What several have to decide, the first does not decide alone.",
        (f"{VOTES}test_two_of_three_approve_and_the_third_comes_too_late",),
    ),
    Guard(
        "a person has one vote",
        "Who has voted is told so, and votes no second time.",
        (f"{VOTES}test_nobody_votes_twice_and_nobody_for_another",),
    ),
    Guard(
        "who is excluded decides nothing",
        "Separation of duties holds at every decision, whoever was asked.",
        (f"{VOTES}test_nobody_votes_twice_and_nobody_for_another",),
    ),
    Guard(
        "an approval is decided in time",
        "After the deadline nobody decides, though its timer is late.",
        (
            f"{SCENARIOS}test_an_approval_times_out_at_its_deadline",
            f"{VERBS}test_a_decision_that_is_not_allowed_writes_nothing[bob-m-60]",
        ),
    ),
    Guard(
        "a closed key is no name",
        "A yes for one thing never approves another: what was asked since is another asking.",
        (f"{ASKINGS}test_a_key_means_its_asking_though_another_of_its_name_asks_this_person",),
    ),
    Guard(
        "a decision that names no asking",
        "It means the open one only where no earlier one asked this person.",
        (f"{ASKINGS}test_a_doubled_click_decides_once[None]",),
    ),
    Guard(
        "what was asked after the look",
        "With a run's view, only what was open in it is decided.",
        (f"{ASKINGS}test_what_was_asked_after_a_look_at_nothing_is_not_decided",),
        cut=ALWAYS,
    ),
    Guard(
        "a business key after a restart",
        "It may mean the run before.",
        (
            f"{ASKINGS}test_a_business_key_that_was_used_before_is_enough_for_whom_nobody_asked_then",
        ),
    ),
    Guard(
        "a forgotten await",
        "What was asked and thrown away is an incident, and never done by chance.",
        (
            f"{WRONG}test_what_a_flow_asks_for_and_throws_away_is_an_incident_at_its_first_await[signal]",
            f"{WRONG}test_what_a_branch_throws_away_while_others_run_is_an_incident[signal]",
        ),
    ),
    Guard(
        "a forgotten await at the end",
        "A stage that a flow kept and never awaited is an incident.",
        (f"{WRONG}test_work_that_a_flow_kept_and_never_awaited_is_an_incident_at_its_end[stage]",),
    ),
    Guard(
        "an error skips awaits",
        "A flow that catches the failure of one stage would be an incident for those that it was to await after it.",
        (f"{WRONG}test_work_whose_await_an_error_has_skipped_is_not_forgotten[stage]",),
    ),
    Guard(
        "a run is cancelled once",
        "Of two operators who cancel a run that cleans up, one does; the other is told so.",
        (f"{RACE}[two_operators_cancel_a_run_that_cleans_up]",),
    ),
    Guard(
        "a run is cancelled on the revision it had",
        "Whoever has cancelled it in between is not overlooked.",
        (f"{RACE}[two_operators_cancel_a_run_that_cleans_up]",),
    ),
    Guard(
        "handoff of a run that is cancelled",
        "Its flow is driven on: nobody else would wake a run that waits for weeks.",
        (f"{CANCELLING}test_its_clean_up_runs_before_it_is_closed[normal]",),
    ),
    Guard(
        "a compensation is not cancelled",
        "A deadline that comes while a flow undoes what it has done leaves that to its end.",
        (f"{SAGAS}test_nothing_interrupts_what_is_undone[normal]",),
    ),
    Guard(
        "nothing interrupts what is undone",
        "What is cancelled while it undoes what it has done is interrupted after that.",
        (f"{SAGAS}test_nothing_interrupts_what_is_undone[normal]",),
    ),
    Guard(
        "what may be done is waited for",
        "A stage that can be undone and loses a race is waited for, and undone if it was done.",
        (f"{SAGAS}test_a_loser_that_can_be_undone_is_waited_for_and_undone[normal]",),
    ),
    Guard(
        "what was undone is not built on",
        "A run that has failed and undone what it did does not go on from there.",
        (f"{SAGAS}test_what_was_undone_is_not_built_on[normal]",),
    ),
    Guard(
        "a stage that loses before it is awaited",
        "A stage whose race is decided before anybody awaits it is not done, also where people may be asked of it.",
        (f"{EXHAUSTED}test_who_loses_a_race_or_is_late_asks_nobody_any_more[normal]",),
    ),
    Guard(
        "steps of former rounds",
        "A stage that people let be tried again does no step of its once more.",
        (f"{EXHAUSTED}test_who_approves_lets_it_be_tried_again_with_all_its_attempts[normal]",),
    ),
    Guard(
        "a further round that was done stays",
        "An operator's retry does not repeat a stage that people let be tried again, and that was done.",
        (f"{EXHAUSTED}test_what_a_further_round_has_done_is_not_done_again[normal]",),
    ),
    Guard(
        "a signal for a cancelled wait stays",
        "A signal that a deadline gave to a wait that had lost its race is waited for again.",
        (
            "tests/engine/test_branches.py::test_a_signal_that_a_deadline_took_for_a_cancelled_wait_stays_for_the_next",
        ),
    ),
    Guard(
        "a series looks at the clock",
        "After a pause a moment would be given that came first in it, and the last one right behind it.",
        ("tests/engine/test_series.py::test_the_last_alone_is_taken_where_nothing_is_said",),
    ),
    Guard(
        "a chapter leaves no child behind",
        "A child that is awaited would end, and nobody would hear of it.",
        ("tests/engine/test_chapters.py::test_wrong_calls_park_the_run_in_words",),
    ),
    Guard(
        "a chapter awaits something",
        "A flow that continues as new at once, and at once again, is parked, and doesn't fill the broker.",
        ("tests/engine/test_chapters.py::test_wrong_calls_park_the_run_in_words",),
    ),
    Guard(
        "a chapter begins on the revision that was read",
        "Of two workers that end the same chapter, the second would end the next one with it.",
        ("tests/engine/test_chapters.py::test_a_chapter_is_ended_once",),
    ),
    Guard(
        "a chapter's input is checked by what is deployed now",
        "A chapter would begin with what its version doesn't take.",
        (
            "tests/engine/test_chapters.py::test_a_version_that_is_deployed_meanwhile_judges_the_input",
        ),
    ),
    Guard(
        "a recorded scope says nothing",
        "What it said would be lost at the next replay, or count less than what was said before it.",
        ("tests/engine/test_attributes.py::test_a_scope_that_is_not_replayed_says_nothing",),
    ),
    Guard(
        "a recorded scope isn't run again",
        "What stands in it would be asked for once more, beside what is recorded.",
        (
            "tests/unit/test_maps_and_blocks.py::test_a_scope_whose_result_is_recorded_is_not_run_again",
        ),
    ),
    Guard(
        "of two deadlines the outer one counts",
        "The inner block would leave with an error of its own, and its flow go on in the outer one.",
        ("tests/unit/test_maps_and_blocks.py::test_of_two_deadlines_the_outer_one_counts",),
    ),
    Guard(
        "a stage that a flow calls itself",
        "It would be done unrecorded, and again at each replay.",
        (f"{WRONG}test_what_a_flow_calls_itself_is_an_incident_before_it_is_done[stage]",),
    ),
    Guard(
        "what a step calls is no flow's code",
        "A step that calls a stage's function is no incident.",
        (f"{WRONG}test_what_a_step_of_a_flow_calls_is_no_flows_code[at once]",),
    ),
    Guard(
        "an approval is decided by whom it asks",
        "Nobody else decides.",
        (
            f"{VERBS}test_a_decision_that_is_not_allowed_writes_nothing[eve-m-0]",
            f"{SCENARIOS}test_an_approval_escalates_and_then_others_may_decide",
        ),
    ),
    Guard(
        "a refused decision is no fact",
        "A decision that is refused raises no revision.",
        (f"{VERBS}test_what_is_refused_raises_nothing",),
    ),
    Guard(
        "a decided approval does not time out",
        "A deadline that comes while somebody decides changes nothing.",
        (f"{RACE}[a_timeout_while_a_decision_is_taken]",),
    ),
    # -- timers ----------------------------------------------------------------------------------
    Guard(
        "a timer is due by the database's clock",
        "A message that comes too early fires nothing, whatever a worker's clock says.",
        (
            f"{SCENARIOS}test_a_sleep_ends_when_its_time_has_come_and_not_before",
            f"{VERBS}test_only_an_armed_timer_that_is_due_is_fired[1-armed-False]",
            f"{CROWDS}test_a_crowd_that_is_not_due_is_not_fired",
        ),
    ),
    Guard(
        "a timer fires once",
        "Of two messages for one timer, one fires it; one that was cancelled never fires.",
        (
            f"{RACE}[one_timer_fired_twice_at_once]",
            f"{RACE}[an_escalation_fired_twice_at_once]",
            f"{VERBS}test_only_an_armed_timer_that_is_due_is_fired[-9-fired-False]",
            f"{VERBS}test_only_an_armed_timer_that_is_due_is_fired[-9-cancelled-False]",
        ),
    ),
    Guard(
        "a timer fires on the revision it read",
        "A signal that came in time, while its deadline waited for the run's lock, is the wait's.",
        (f"{RACE}[a_signal_while_its_wait_times_out]",),
    ),
    Guard(
        "timers of one activity fire in order",
        "An approval that escalates and times out has escalated.",
        (f"{CROWDS}test_a_crowd_of_every_kind_leaves_what_each_alone_would_have_left",),
    ),
    Guard(
        "timers of locked runs are skipped",
        "Of many timers none waits for the lock of another's run.",
        (f"{CROWDS}test_a_run_that_somebody_has_locked_holds_up_no_other",),
    ),
    Guard(
        "a run expires by the database's clock",
        "A message that comes too early closes no run.",
        (f"{VERBS}test_a_run_expires_when_its_timer_is_due_and_not_before",),
    ),
    Guard(
        "a settled wait has no deadline",
        "The timer of a wait that was answered is cancelled with the answer.",
        (f"{SCENARIOS}test_what_a_turn_settles_is_taken_out_of_the_index",),
        cut="false",
    ),
    Guard(
        "an overdue timer is fired by a sweep",
        "A timer whose message never came fires all the same.",
        (f"{SCENARIOS}test_an_overdue_timer_is_fired_by_a_sweep",),
        cut="0",
    ),
    Guard(
        "a timer is moved once",
        "Two timer dispatchers put one message of a timer onto its queue.",
        (f"{SERVICES}test_a_due_timer_is_moved_onto_its_queue_once",),
    ),
    Guard(
        "one rebuilds",
        "Of a fleet that finds Redis emptied, one worker puts everything back.",
        (f"{SERVICES}test_one_worker_at_a_time_rebuilds_the_index",),
    ),
    # -- workers ---------------------------------------------------------------------------------
    Guard(
        "a claim is a sign of life",
        "A worker that was idle for an hour is not thought dead the moment it claims.",
        (
            (
                f"{VERBS}test_an_attempt_is_lost_when_its_worker_is_silent_or_its_time_is_up"
                "[5-60-None-False]"
            ),
        ),
        cut="NULL",
    ),
    Guard(
        "a beating worker keeps its claim",
        "A stage may take longer than a dead worker is waited for.",
        (
            f"{SCENARIOS}test_a_worker_that_beats_keeps_its_claim",
            (
                f"{VERBS}test_an_attempt_is_lost_when_its_worker_is_silent_or_its_time_is_up"
                "[60-5-None-False]"
            ),
        ),
    ),
    Guard(
        "a stage has a time limit",
        "A stage that hangs is handed out again, though its worker beats.",
        (
            (
                f"{SCENARIOS}test_an_attempt_that_overran_its_timeout_is_handed_out_again"
                "_though_its_worker_beats"
            ),
        ),
    ),
    Guard(
        "who has just come back does not judge",
        "When Postgres was away, living workers get the time to beat.",
        (
            (
                "tests/fleet/test_services.py::"
                "test_maintenance_that_has_just_regained_contact_judges_nobody"
            ),
        ),
        cut="True",
    ),
    Guard(
        "a failure gives a new identity",
        "A claim that went wrong falls silent, and is handed out again like a dead worker's.",
        ("tests/unit/test_liveness.py::test_one_threads_failure_does_not_take_the_others_claims",),
    ),
    Guard(
        "an abandoned id falls silent outside too",
        "The helper that beats for a process does not beat for a claim that went wrong.",
        (f"{HEARTBEATS}test_it_beats_for_what_is_held_and_is_silent_for_what_is_not",),
    ),
    Guard(
        "the dead are not beaten for",
        "A process that has ended falls silent at once, though nobody has reaped it.",
        (f"{HEARTBEATS}test_whom_a_signal_has_stopped_is_silent_and_the_dead_are_forgotten",),
    ),
    Guard(
        "a silent helper is stood in for",
        "Where the helper does not beat, the process beats itself.",
        (f"{HEARTBEATS}test_where_the_helper_is_silent_the_process_beats_itself",),
        cut="True",
    ),
    # -- what can't go on ------------------------------------------------------------------------
    Guard(
        "a missing stage leaves the run",
        "A worker that lacks a stage leaves the turn to one that has it.",
        (
            f"{HANDOFFS}test_a_worker_that_lacks_a_stage_leaves_the_run_to_one_that_has_it",
            "tests/unit/test_replay.py::test_a_stage_that_this_worker_lacks_abandons_the_turn",
        ),
    ),
    Guard(
        "a miss is sent on",
        "A turn that this worker can't take goes to a living one that can, and waits for no relay.",
        (f"{ELSEWHERE}test_a_turn_that_this_worker_cannot_take_goes_to_one_that_can",),
    ),
    Guard(
        "who comes while it is noted is seen",
        "A worker that came just before a run was noted as waiting for it gets the run all the same.",
        (f"{ELSEWHERE}test_who_comes_while_the_lack_is_noted_gets_the_turn",),
    ),
    Guard(
        "nothing is sent to those who just said that they can't",
        "A message doesn't come back to the code that it was sent on from.",
        (f"{ELSEWHERE}test_a_flow_that_asks_for_a_stage_by_name_needs_that_too",),
    ),
    Guard(
        "nothing is sent to the dead",
        "What is sent on has somebody who takes it.",
        (f"{ELSEWHERE}test_only_the_living_are_sent_to_and_only_what_they_take",),
    ),
    Guard(
        "what waits for a worker is due when it comes",
        "What no living worker could run is sent again as soon as one comes that can.",
        (
            (
                "tests/fleet/test_registration.py::"
                "test_it_hears_of_a_deploy_and_what_waited_for_that_is_due"
            ),
        ),
        cut="0",
    ),
    Guard(
        "a worker hears of a deploy",
        "A worker can run what is deployed in YAML after its start.",
        (
            (
                "tests/fleet/test_registration.py::"
                "test_it_hears_of_a_deploy_and_what_waited_for_that_is_due"
            ),
        ),
    ),
    Guard(
        "a message goes round no longer",
        "Workers that all claim to be able to run it don't send a message round for ever.",
        ("tests/fleet/test_forwarding.py::test_after_so_many_times_it_is_sent_on_no_more",),
    ),
    Guard(
        "another record's message goes back though its task is unknown",
        "A forgotten worker of another app swallows no message, whether or not it has its task.",
        (
            (
                "tests/fleet/test_forwarding.py::"
                "test_another_records_message_goes_back_to_its_queue_though_its_task_is_unknown"
            ),
        ),
        shows_as=(*A_REFUSAL, "AttributeError"),
    ),
    Guard(
        "old data goes to old code",
        "A stage whose arguments a new release can't read is done by a worker that has the run's code.",
        (
            (
                f"{ELSEWHERE}test_a_stage_whose_arguments_another_release_wrote_"
                "goes_to_a_worker_that_has_its_code"
            ),
        ),
    ),
    Guard(
        "an attempt that is still ours is given back",
        "What another worker has done meanwhile isn't handed out once more.",
        (
            (
                f"{ELSEWHERE}test_a_stage_whose_arguments_another_release_wrote_"
                "goes_to_a_worker_that_has_its_code"
            ),
        ),
    ),
    Guard(
        "a retired version gets no new run",
        "What a team has retired is started no more, whatever a program asks for.",
        (f"{SERVING}test_a_retired_version_gets_no_new_run_and_those_that_are_there_go_on",),
    ),
    Guard(
        "what is retired is not set as current",
        "New runs don't take a version that was retired.",
        (f"{SERVING}test_a_retired_version_gets_no_new_run_and_those_that_are_there_go_on",),
    ),
    Guard(
        "the last version is not retired unasked",
        "A process can be started, unless somebody said that it should not be.",
        (f"{SERVING}test_a_retired_version_gets_no_new_run_and_those_that_are_there_go_on",),
    ),
    Guard(
        "a fleet that is all down changes nothing",
        "New runs don't take a version that nobody ran just because nobody runs any.",
        (f"{SERVING}test_a_fleet_that_is_all_down_changes_nothing",),
    ),
    Guard(
        "a missing process leaves the run",
        "A worker that lacks a version leaves the turn to one that has it.",
        (f"{SCENARIOS}test_a_worker_that_lacks_the_process_leaves_the_run",),
    ),
    Guard(
        "a contradiction parks",
        "A flow that asks for other things than its journal holds is stopped, and explained.",
        (
            (
                f"{SCENARIOS}test_a_contradiction_parks_the_run_with_a_diff"
                "_and_goes_on_when_the_code_is_put_back"
            ),
        ),
    ),
    Guard(
        "what the flow forgot parks",
        "A flow that no longer asks for what its journal holds is stopped, and explained.",
        ("tests/unit/test_replay.py::test_a_removed_activity_is_explained",),
    ),
    Guard(
        "a contradiction can't be caught",
        "A flow that catches everything doesn't complete over a journal that is not its own.",
        (f"{POISON}test_a_bare_except_does_not_swallow_a_contradiction",),
    ),
    Guard(
        "a step that kills its workers parks",
        "A turn that loses one worker after the other is stopped.",
        (f"{POISON}test_a_step_that_kills_its_worker_parks_the_run_at_last",),
    ),
    Guard(
        "a flow that kills its workers parks",
        "So is one that dies before it asks for anything.",
        (f"{POISON}test_a_flow_that_kills_its_worker_without_a_step_parks_the_run_at_last",),
    ),
    # -- connections -----------------------------------------------------------------------------
    Guard(
        "a cut connection consumes no message",
        "After a restart of Postgres no process loses the first message that reaches it.",
        tuple(
            f"{SERVICES}test_a_message_is_not_consumed_in_vain_because_a_connection_was_cut[{task}]"
            for task in ("perennial.advance", "perennial.fire", "work")
        ),
        cut=UNWRAPPED,
        shows_as=("Ignore",),
    ),
    Guard(
        "a cut connection loses no result",
        "What a stage has done is recorded, though its connection died while it worked.",
        (
            (
                "tests/engine/test_connections.py::"
                "test_an_hours_result_is_kept_though_postgres_was_restarted_meanwhile"
            ),
            "tests/engine/test_connections.py::test_an_hours_failure_is_kept_too",
        ),
        cut=UNWRAPPED,
        shows_as=("OperationalError",),
    ),
    Guard(
        "maintenance trusts no old connection",
        "After a restart of Postgres maintenance fails once, and not at one connection after the other.",
        ((f"{SERVICES}test_maintenance_whose_connections_were_cut_needs_one_look_to_know_it"),),
        shows_as=("OperationalError",),
    ),
    Guard(
        "a failed rebuild is made again",
        "Whoever could not rebuild the index lets the next try at once.",
        (f"{SERVICES}test_a_rebuild_that_fails_is_made_again_at_once",),
    ),
    Guard(
        "a failed statement leaves no plan in Postgres",
        "A connection on which a statement failed is closed, so that failures fill no Postgres process.",
        (
            (
                "tests/engine/test_connections.py::"
                "test_a_statement_that_fails_leaves_nothing_in_postgres"
            ),
            (
                "tests/engine/test_connections.py::"
                "test_a_failure_within_a_transaction_closes_its_connection_too"
            ),
        ),
    ),
    Guard(
        "a failure is let go",
        "A failed task leaves nothing in its worker until a collection of garbage that may come late.",
        ("tests/fleet/test_failures.py::test_a_failure_is_let_go_without_a_collection_of_garbage",),
    ),
    Guard(
        "a commit that takes over is held",
        "If its answer is lost, the stage that it has claimed is not kept by a worker that lives.",
        (
            (
                "tests/engine/test_eager_execution.py::"
                "test_a_commit_whose_answer_is_lost_leaves_no_claim_with_a_living_worker"
            ),
        ),
    ),
    Guard(
        "each eager stage is held",
        "Where its end can't be recorded, its worker falls silent, though Celery kept the failure.",
        (
            (
                "tests/engine/test_eager_execution.py::"
                "test_a_stage_whose_end_cannot_be_recorded_is_left_by_its_worker"
            ),
        ),
    ),
    Guard(
        "nothing is taken over unseen",
        "A worker goes on only with a run that it has in hand as it is recorded.",
        (
            (
                "tests/engine/test_eager_execution.py::"
                "test_nothing_is_taken_over_with_what_the_run_in_hand_would_lack[signal]"
            ),
            (
                "tests/engine/test_eager_execution.py::"
                "test_nothing_is_taken_over_with_what_the_run_in_hand_would_lack[step]"
            ),
        ),
    ),
    Guard(
        "limits of a pool are those of the message",
        "No stage runs under another's time limits, or under none.",
        (
            (
                "tests/fleet/test_eager_tasks.py::"
                "test_a_pool_that_keeps_limits_by_the_message_takes_over_what_has_the_same[perennial.advance]"
            ),
            "tests/fleet/test_eager_tasks.py::test_limits_of_the_message_itself_count",
        ),
        cut="True",
    ),
    # -- going on together -----------------------------------------------------------------------
    Guard(
        "no statement of many waits for one",
        "A producer that holds one run and wants another meets no circle.",
        tuple(
            f"{TOGETHER}test_while_one_run_is_locked_the_others_are_neither_kept_nor_locked[{where}]"
            for where in ("hold_turn", "remember_flow_step", "commit_turn")
        ),
        shows_as=("LockNotAvailable", "DeadlockDetected"),
    ),
    Guard(
        "who is left out asks alone",
        "A run that was locked is not taken for one that lost its race.",
        tuple(
            f"{TOGETHER}test_while_one_run_is_locked_the_others_are_neither_kept_nor_locked[{where}]"
            for where in ("hold_turn", "remember_flow_step")
        ),
    ),
    Guard(
        "a refusal is one run's",
        "What Postgres refuses of one run is recorded of all others.",
        (f"{TOGETHER}test_what_postgres_refuses_is_that_runs_trouble_alone",),
    ),
    Guard(
        "what is withheld is recorded soon",
        "A worker that dies repeats the calls of milliseconds.",
        (
            (
                f"{TOGETHER}test_what_was_called_is_recorded_before_the_next_call"
                "_if_that_has_taken_long"
            ),
        ),
        shows_as=("Killed",),
    ),
    Guard(
        "its commit is sent along",
        "No lock waits until a call of another run comes back, and nothing that was sent is lost with its worker.",
        (f"{TOGETHER}test_what_was_sent_is_recorded_though_nobody_reads_the_answer",),
        shows_as=("Killed",),
    ),
    Guard(
        "all of it is sent",
        "Nobody is called while the end of a record lies in this worker.",
        ("tests/store/test_statement.py::test_nobody_goes_on_before_all_of_it_is_sent",),
        cut="True",
    ),
    Guard(
        "what interrupts is told",
        "A time limit that strikes while an answer is awaited is no trouble of Postgres'.",
        (
            "tests/store/test_statement.py::test_what_interrupts_the_wait_for_an_answer_is_not_hidden",
        ),
        cut=ALWAYS,
        shows_as=("OperationalError",),
    ),
    Guard(
        "nobody goes on while one is asked for alone",
        "A wait for a lock keeps no answer from being read, and calls wait no longer to be recorded.",
        (f"{TOGETHER}test_nobody_goes_on_while_one_is_asked_for_alone",),
    ),
    Guard(
        "nobody goes on while runs are loaded",
        "No transaction stays open since its answer fits into no buffer.",
        (f"{TOGETHER}test_nobody_goes_on_while_runs_are_loaded",),
    ),
    Guard(
        "a connection to spare",
        "Threads that go on while Postgres is at work find a connection, and don't wait for each other's.",
        (f"{TOGETHER}test_nobody_goes_on_who_could_find_no_connection",),
        shows_as=("AssertionError", "ValueError"),
    ),
    Guard(
        "others wait for short calls alone",
        "No run waits for another's long stage or step.",
        (
            f"{TOGETHER}test_a_stage_that_is_not_known_to_be_short_is_handed_off_but_by_the_last",
            (
                f"{TOGETHER}test_a_step_that_is_not_known_to_be_short_is_called_for_one"
                "_and_the_others_are_handed_back"
            ),
        ),
    ),
    Guard(
        "what is tried once waits for nobody",
        "A stage that must not be lost is not claimed by a worker that another run may end.",
        (
            (
                f"{TOGETHER}test_a_stage_that_is_tried_once_is_not_claimed"
                "_while_another_may_end_the_worker"
            ),
        ),
    ),
    Guard(
        "a batch's time",
        "Other messages wait for a batch no longer than for one run.",
        (f"{TOGETHER}test_when_their_time_is_over_they_are_handed_off_and_handed_back",),
    ),
    Guard(
        "who is handed back is told of",
        "A run whose step others can't wait for is brought to a worker by a message.",
        (
            (
                f"{TOGETHER}test_a_step_that_is_not_known_to_be_short_is_called_for_one"
                "_and_the_others_are_handed_back"
            ),
        ),
    ),
    Guard(
        "a batch ends with its worker",
        "A worker that is being ended leaves none of its runs with a living id.",
        (f"{TOGETHER}test_a_worker_that_is_ended_in_one_call_leaves_all_of_them",),
    ),
    Guard(
        "a context of one's own",
        "What an author's code sets for its thread, another run does not see.",
        (f"{TOGETHER}test_a_stage_is_called_and_comes_back_before_anything_else_happens",),
    ),
    Guard(
        "what ended its worker goes alone",
        "A run that is sent again takes no other with it.",
        (
            (
                "tests/fleet/test_publisher.py::"
                "test_runs_whose_turn_is_asked_for_the_first_time_share_messages"
            ),
        ),
    ),
    Guard(
        "what is set in a session that is lent",
        "Others come to feel it: behind a pooler nothing is set.",
        (
            (
                "tests/engine/test_poolers.py::"
                "test_a_pooler_is_found_out_by_a_producer_that_nobody_has_told"
            ),
        ),
        cut=ALWAYS,
    ),
    Guard(
        "whose record a message is of",
        "A forgotten worker of another database swallows messages, and each waits for the relay.",
        ("tests/fleet/test_strangers.py::test_a_stranger_gives_the_message_back_as_it_was",),
        cut=ALWAYS,
    ),
    Guard(
        "a broker that refuses is outlasted",
        "A full Redis ends every worker.",
        ("tests/unit/test_outlast.py::test_a_worker_tries_again_on_a_broker_that_refuses",),
        cut="False",
    ),
    Guard(
        "our own adapters on a caller's connection",
        "A decision in Django's transaction reads what it wrote.",
        (
            (
                "tests/engine/test_callers_connections.py::"
                "test_every_verb_works_on_a_callers_connection[psycopg, other adapters]"
            ),
        ),
        shows_as=(*A_REFUSAL, "TypeError", "AttributeError"),
    ),
    Guard(
        "rights on activities",
        "Who may only read takes no activity out of a run by a function that has its owner's rights.",
        (f"{RIGHTS}[activities]",),
    ),
    Guard(
        "rights on approvals",
        "Who may only read takes no approval out of a run by a function that has its owner's rights.",
        (f"{RIGHTS}[approvals]",),
    ),
    Guard(
        "rights on votes",
        "Who may only read takes no vote out of a run by a function that has its owner's rights.",
        (f"{RIGHTS}[votes]",),
    ),
    Guard(
        "rights on chapters",
        "Who may only read ends no chapter of a run by a function that has its owner's rights.",
        (f"{RIGHTS}[chapters]",),
    ),
    Guard(
        "rights on signals",
        "Who may only read takes no signal out of a run by a function that has its owner's rights.",
        (f"{RIGHTS}[signals]",),
    ),
    Guard(
        "history is its owner's to drop",
        "A right to delete in all tables is no right to drop history.",
        (
            (
                "tests/store/test_rights.py::"
                "test_history_is_dropped_by_its_owner_alone_whatever_others_are_granted"
            ),
        ),
    ),
    Guard(
        "another app's is left to it",
        "A relay gives back what its own app can't run, and takes none of the kind again for a while.",
        ("tests/engine/test_foreign.py::test_a_relay_sends_only_what_its_app_can_run",),
        cut="[]",
    ),
    Guard(
        "each kind of another app's is met once",
        "Two relays don't hand one thing back and forth.",
        ("tests/engine/test_foreign.py::test_a_relay_sends_only_what_its_app_can_run",),
        cut="()",
    ),
    Guard(
        "a schema's name is looked at",
        "No text of SQL has in it what somebody wrote into a variable.",
        (
            f"{SCHEMA}test_any_other_is_refused_in_a_sentence_whoever_gives_it[Billing-made of a to z]",
        ),
    ),
    Guard(
        "each schema has a channel",
        "A relay is not woken by another app on its database.",
        (f"{TWO_RECORDS}test_neither_relay_is_woken_by_the_other",),
    ),
    Guard(
        "a caller's connection is in its client's schema",
        "A start on a caller's own connection goes into the record of its client, whose it is.",
        (
            f"{TWO_RECORDS}test_two_clients_of_one_program_have_each_its_own_on_a_callers_connection",
        ),
        cut=ALWAYS,
    ),
    Guard(
        "each schema has an index of timers",
        "What one record has rebuilt in Redis doesn't pass for the other's.",
        (
            (
                "tests/fleet/test_two_records.py::"
                "test_each_has_an_index_of_its_own_and_its_messages_say_whose_they_are"
            ),
        ),
        cut=ALWAYS,
    ),
    Guard(
        "whose schema a timer's message is of",
        "A worker of another schema swallows no timer's message.",
        ("tests/fleet/test_strangers.py::test_a_timers_message_of_another_schema_goes_back_too",),
        cut=ALWAYS,
    ),
    Guard(
        "a signal is looked at where it is sent",
        "What doesn't fit the wait that it would answer is refused, and nothing is written.",
        (
            (
                "tests/engine/test_signals.py::"
                "test_a_signal_of_the_wrong_form_is_refused_where_it_is_sent_if_what_waits_is_known"
            ),
        ),
    ),
    Guard(
        "revision of a migration",
        "What a plan decided over a run that has changed since is not written.",
        (f"{MIGRATE}test_what_came_since_a_run_was_read_is_decided_anew",),
    ),
    Guard(
        "a held turn is not migrated",
        "A run keeps its version while a worker is in its turn.",
        (f"{MIGRATE}test_a_turn_that_was_taken_since_is_let_go_on",),
    ),
    Guard(
        "nothing is claimed while its journal is rewritten",
        "A stage that a worker claims while its run is decided stays that worker's.",
        (f"{MIGRATE}test_what_a_worker_claims_while_a_run_is_decided_is_not_moved",),
    ),
    Guard(
        "what was claimed since is not migrated",
        "A stage that a worker has claimed is not taken from under it.",
        (f"{MIGRATE}test_what_a_worker_claims_while_a_run_is_decided_is_not_moved",),
    ),
    Guard(
        "handoff of a migrated run",
        "What the new version asks for at once is asked for.",
        (f"{MIGRATE}test_what_is_inserted_is_run_or_skipped_and_what_is_removed_is_withdrawn",),
    ),
    Guard(
        "a migration is undone until the next step",
        "A run that has gone on with the new version is not put back under it.",
        (f"{MIGRATE}test_a_run_that_goes_on_while_it_is_undone_stays",),
    ),
    Guard(
        "a link of before a migration",
        "A link that names an approval by its former key decides it.",
        (f"{MIGRATE}test_a_parked_run_moves_and_what_it_was_promised_stays",),
    ),
    Guard(
        "an approval is decided as it was shown",
        "A decision on what was changed since is refused.",
        (f"{MIGRATE}test_who_was_shown_what_is_no_longer_so_is_refused_and_sees_what_changed",),
    ),
    Guard(
        "a patch of a run that is further",
        "A run that was further when the code changed keeps the former code.",
        (
            (
                "tests/unit/test_patches.py::"
                "test_who_comes_to_it_first_takes_the_new_code_and_is_marked_and_others_the_former"
            ),
        ),
    ),
    Guard(
        "a migration is proved by replay",
        "No run comes to a version whose flow contradicts the journal that was made for it.",
        ("tests/unit/test_migrations.py::test_a_journal_that_contradicts_all_the_same_is_refused",),
    ),
    # -- operations over many runs ---------------------------------------------------------------
    Guard(
        "one operator is at an operation",
        "While a command is at an operation, no other takes it up.",
        (f"{BULK}test_one_operator_is_at_an_operation_and_another_is_told_who",),
    ),
    Guard(
        "who has lost an operation does no more of it",
        "A command whose operation another has paused, stopped or taken up acts on no further run.",
        (f"{BULK}test_what_another_has_paused_or_stopped_goes_no_further",),
    ),
    Guard(
        "a run of an operation is done once",
        "Two commands that are at one run of an operation at once act on it once.",
        ("tests/race/test_bulk.py::test_two_commands_at_one_run_act_on_it_once",),
    ),
    Guard(
        "a run that has changed since the preview is left alone",
        "An operator acts on runs as they were shown, and on no other.",
        (
            f"{BULK}test_the_set_that_was_previewed_is_acted_on_and_no_other",
            f"{BULK}test_a_run_in_two_operations_is_acted_on_by_the_first",
        ),
        cut=ALWAYS,
    ),
    Guard(
        "no verb acts on all runs by accident",
        "A verb over many runs whose filter says nothing is refused.",
        ((f"{BULK}test_a_preview_refuses_in_a_sentence[cancel-asked0-cancel of which runs?]"),),
    ),
]

SECOND_FENCES = [
    Guard(
        "attempt fence of the fact of a result",
        "A result of a lost attempt that comes without a turn raises no revision.",
        (),
    ),
    Guard(
        "a conflict over a lost attempt",
        "A worker that can't commit since it has lost its attempt gives its result up.",
        (),
    ),
]
"""They stand behind another guard, and alone nobody misses them: tests/oracle cuts them out together with that one."""
