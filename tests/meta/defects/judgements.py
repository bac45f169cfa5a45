"""Seeded defects: what a session says of its runs, and whether they repeat themselves."""

from defects.seed import Defect

JUDGEMENTS = (
    # judgement
    Defect(
        "held against the labels of the wrong side",
        "judgement",
        "sides = [np.equal([run.predicted for run in side], side[0].test_labels) for side in (found.runs, runs)]",
        "sides = [np.equal([run.predicted for run in side], found.runs[0].predicted) for side in (found.runs, runs)]",
        "test_gating.py::test_a_regression_fails_with_its_own_exit_code_and_names_what_flipped",
        r"regressed",
    ),
    Defect(
        "the margin overlooked",
        "judgement",
        "verdict = gates.gate(*sides, margin=margin, looks=looks)",
        "verdict = gates.gate(*sides, looks=looks)",
        "test_gating.py::test_a_wider_margin_lets_more_pass",
        r"regressed",
    ),
    Defect(
        "every look as if it were the only one",
        "judgement",
        "verdict = gates.gate(*sides, margin=margin, looks=looks)",
        "verdict = gates.gate(*sides, margin=margin)",
        "test_gating.py::test_each_look_of_seeds_auto_takes_its_share_of_the_error",
        r"the interval of one of four looks is wider",
    ),
    Defect(
        "all runs of one seed",
        "judgement",
        "            seed=seed,",
        "            seed=0,",
        "test_gating.py::test_each_row_of_predictions_is_the_run_of_one_seed",
        r"\(1, 1\.0\)|\(0, 1\.0\)",
    ),
    Defect(
        "the names of test pictures left out of their fingerprint, and their labels",
        "judgement",
        "json.dumps([named, truth.tolist()])",
        "json.dumps([named])",
        "test_gating.py::test_a_changed_test_set_is_said_not_to_be_comparable_and_is_not_compared",
        r"fingerprint",
    ),
    # session
    Defect(
        "a regression that passes",
        "session",
        'if judgement.outcome == "regressed" and not update:',
        'if judgement.outcome == "regressed" and update:',
        "test_gating.py::test_a_regression_fails_with_its_own_exit_code_and_names_what_flipped",
        r"== REGRESSED|10",
        quick=True,
    ),
    Defect(
        "what cannot be compared replaced unasked",
        "session",
        "if update or first:",
        'if update or judgement.outcome == "missing":',
        "test_gating.py::test_a_changed_test_set_is_said_not_to_be_comparable_and_is_not_compared",
        r"what cannot be compared is not replaced unasked",
    ),
    Defect(
        "seeds added although the verdict is certain",
        "session",
        """            if self.judge(runs).outcome != "underpowered":
                break
""",
        "",
        "test_gating.py::test_seeds_auto_adds_seeds_until_the_verdict_is_certain_or_there_are_twelve",
        r"\[0, 1, 2, 3, 4",
    ),
    Defect(
        "no exit code for a missing baseline",
        "plugin",
        'session.exitstatus = REGRESSED if "regressed" in outcomes else NO_BASELINE',
        "session.exitstatus = REGRESSED",
        "test_gating.py::test_a_first_run_writes_the_baseline_and_fails_with_the_words_to_say_so",
        r"== NO_BASELINE|11",
    ),
    Defect(
        "an exit code of a gate although another test failed",
        "plugin",
        'if outcomes and outcomes <= {"regressed", "missing"}:',
        'if outcomes & {"regressed", "missing"}:',
        "test_gating.py::test_another_failure_beside_a_regression_keeps_pytests_own_exit_code",
        r"TESTS_FAILED",
    ),
    # determinism
    Defect(
        "the last step beyond the tolerance named",
        "determinism",
        "beyond[0] + 1",
        "beyond[-1] + 1",
        "test_determinism.py::test_the_first_step_beyond_the_tolerance_is_named",
        r"diverging from step",
    ),
    Defect(
        "a loss that is no number within the tolerance",
        "determinism",
        "np.flatnonzero(~(apart <= TOLERANCE))",
        "np.flatnonzero(apart > TOLERANCE)",
        "test_determinism.py::test_the_first_step_beyond_the_tolerance_is_named",
        r"diverging from step 3",
    ),
    Defect(
        "predictions do not count",
        "determinism",
        "if not apart.any() and same_predictions:",
        "if not apart.any():",
        "test_determinism.py::test_other_predictions_after_the_same_losses_are_not_the_same",
        r"within 1e-05",
    ),
    # hardware
    Defect(
        "the faster precision by a hair",
        "hardware",
        "times[1] < 0.75 * times[0]",
        "times[1] < times[0]",
        "test_hardware.py::test_bfloat16_is_for_machines_that_convolve_faster_in_it",
        r"mixed_bfloat16",
    ),
    # recipes and models
    Defect(
        "a recipe that is no rung never climbed",
        "recipes",
        "dict.fromkeys([*names, *(name for name in rungs if name not in RUNGS)])",
        "dict.fromkeys(names)",
        "test_cached.py::test_a_recipe_that_is_no_rung_is_climbed_when_it_is_named",
        r"feature_extraction_best",
    ),
    Defect(
        "the smaller sizes not seen",
        "models",
        "[inputs, *(layers.Resizing(side, side, antialias=True)(inputs) for side in smaller)]",
        "[inputs, *(inputs for side in smaller)]",
        "test_cached.py::test_a_linear_probe_at_two_sizes_has_the_features_of_both",
        r"Not equal|mismatch",
    ),
    # report
    Defect(
        "every claim reproduced",
        "report",
        '"reproduced" if low <= highest and lowest <= high else "not reproduced"',
        '"reproduced" if low <= highest or lowest <= high else "not reproduced"',
        "test_report.py::test_a_claim_is_reproduced_where_another_run_could_give_the_published_figure",
        r"reproduced",
    ),
    Defect(
        "a claim held against another schedule",
        "report",
        "if run.recipe == recipe and run",
        "if run",
        "test_report.py::test_a_claim_without_a_run_of_the_recipe_as_it_is_was_not_run_here",
        r"not run here|assert all|False",
    ),
)
