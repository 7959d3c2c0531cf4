use interdict_features::decision::{DecidedBy, ListKind, Outcome, Thresholds};
use interdict_scorer::decide::{Evidence, Verdict, settle};
use proptest::prelude::*;

const OUTCOMES: [Outcome; 3] = Outcome::ALL;

fn verdicts() -> impl Iterator<Item = Verdict> {
    [Verdict::NotAsked, Verdict::Failed].into_iter().chain(OUTCOMES.map(Verdict::Scored))
}

fn every_evidence() -> Vec<Evidence> {
    let lists = [None, Some(ListKind::ManualBlock), Some(ListKind::Allow), Some(ListKind::AutomaticBlock)];
    let rules = [None, Some(Outcome::Review), Some(Outcome::Block)];
    let mut all = Vec::new();
    for list in lists {
        for rule in rules {
            for verdict in verdicts() {
                for default in OUTCOMES {
                    for floor in [Outcome::Approve, Outcome::Review] {
                        all.push(Evidence { list, rule, verdict, default, floor });
                    }
                }
            }
        }
    }
    all
}

/// The order of the design, written as a list of claims from the strongest down: the first that holds decides.
fn oracle(evidence: &Evidence) -> Outcome {
    let Evidence { list, rule, verdict, default, floor } = *evidence;
    let failed = |outcome| verdict == Verdict::Failed && default == outcome;
    let claims = [
        (list == Some(ListKind::ManualBlock), Outcome::Block),
        (list == Some(ListKind::Allow), Outcome::Approve),
        (list == Some(ListKind::AutomaticBlock), Outcome::Block),
        (rule == Some(Outcome::Block) || verdict == Verdict::Scored(Outcome::Block), Outcome::Block),
        (failed(Outcome::Block), Outcome::Block),
        (rule == Some(Outcome::Review) || verdict == Verdict::Scored(Outcome::Review), Outcome::Review),
        (failed(Outcome::Review) || floor == Outcome::Review, Outcome::Review),
    ];
    claims.into_iter().find(|(holds, _)| *holds).map_or(Outcome::Approve, |(_, outcome)| outcome)
}

#[test]
fn every_evidence_has_the_outcome_of_its_strongest_claim() {
    let all = every_evidence();
    assert_eq!(all.len(), 4 * 3 * 5 * 3 * 2);
    for evidence in all {
        assert_eq!(settle(&evidence).0, oracle(&evidence), "{evidence:?}");
    }
}

#[test]
fn what_settled_it_is_what_would_have_changed_it() {
    for evidence in every_evidence() {
        let (outcome, by) = settle(&evidence);
        match by {
            DecidedBy::List => assert!(evidence.list.is_some()),
            DecidedBy::Rules => {
                assert!(evidence.list.is_none());
                assert!(evidence.rule == Some(outcome) || evidence.verdict == Verdict::NotAsked, "{evidence:?}");
            }
            DecidedBy::Model => assert_eq!(evidence.verdict, Verdict::Scored(outcome), "{evidence:?}"),
            DecidedBy::Default => {
                assert!(evidence.verdict == Verdict::Failed || evidence.floor == outcome, "{evidence:?}");
            }
            DecidedBy::FastModel => panic!("there is no fast model here"),
        }
    }
}

#[test]
fn more_evidence_against_never_lowers_an_outcome_that_no_list_settled() {
    for evidence in every_evidence().into_iter().filter(|evidence| evidence.list.is_none()) {
        let before = settle(&evidence).0;
        for rule in [Some(Outcome::Review), Some(Outcome::Block)] {
            if rule > evidence.rule {
                assert!(settle(&Evidence { rule, ..evidence }).0 >= before, "{evidence:?}");
            }
        }
        assert!(settle(&Evidence { floor: Outcome::Review, ..evidence }).0 >= before, "{evidence:?}");
    }
}

#[test]
fn a_threshold_is_reached_at_equality() {
    let thresholds = Thresholds { review: 0.5, block: 0.9 };
    let check = |score: f64, expected| {
        assert_eq!(Verdict::of(Some(score), Some(&thresholds)), Verdict::Scored(expected), "{score}");
    };
    check(0.5, Outcome::Review);
    check(0.5_f64.next_down(), Outcome::Approve);
    check(0.9, Outcome::Block);
    check(0.9_f64.next_down(), Outcome::Review);
    let same = Thresholds { review: 0.9, block: 0.9 };
    assert_eq!(Verdict::of(Some(0.9), Some(&same)), Verdict::Scored(Outcome::Block));
}

proptest! {
    #[test]
    fn no_number_that_is_not_finite_is_compared(bits: u64, review in 0.0..=1.0_f64, more in 0.0..=1.0_f64) {
        let thresholds = Thresholds { review, block: review + (1.0 - review) * more };
        let score = f64::from_bits(bits);
        let verdict = Verdict::of(Some(score), Some(&thresholds));
        if score.is_finite() {
            prop_assert!(matches!(verdict, Verdict::Scored(_)));
        } else {
            prop_assert_eq!(verdict, Verdict::Failed);
        }
        prop_assert_eq!(Verdict::of(None, Some(&thresholds)), Verdict::Failed);
        prop_assert_eq!(Verdict::of(Some(score), None), Verdict::NotAsked);
    }
}

#[test]
fn infinities_and_nan_are_failures() {
    let thresholds = Thresholds { review: 0.5, block: 0.9 };
    for score in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(Verdict::of(Some(score), Some(&thresholds)), Verdict::Failed);
    }
}
