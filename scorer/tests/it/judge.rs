use std::sync::Arc;

use interdict_features::decision::{DecidedBy, DecisionRecord, ListHit, ListKind, Outcome, decision_id};
use interdict_features::value::Value;
use interdict_features::vector::Flags;
use interdict_scorer::activation::Active;
use interdict_scorer::decide::recompute::{RecomputeError, recompute};
use interdict_scorer::judge::{FindingResult, Judge};
use interdict_scorer::lists::Lists;
use interdict_scorer::policy::Policy;
use interdict_scorer::scorer::{Score, Scored};
use interdict_store::port::ListEntry;
use proptest::prelude::*;

use crate::policy::POLICY;
use crate::scoring::active;
use crate::support::{Event, MANIFEST, at, context, customer, definitions, flagged, read_policy, reading};

/// Scores are given to the judge here, so that every value can be; the model's part is what it reads and its name.
fn model() -> Arc<Active> {
    static MODEL: std::sync::OnceLock<Arc<Active>> = std::sync::OnceLock::new();
    Arc::clone(MODEL.get_or_init(|| active(MANIFEST, "forest.onnx", None)))
}

fn judge_of(policy: &str) -> Judge {
    Judge::new("test", Arc::new(read_policy(policy).unwrap()), &definitions(), 0, Some(model())).unwrap()
}

fn scored(score: f64) -> Scored {
    Scored { score: Score::Given(score), micros: 3 }
}

fn hit(list: ListKind) -> ListHit {
    ListHit { list, entity: customer("7"), reason: format!("{list:?}") }
}

/// Decides and records `event`.
fn record(judge: &Judge, event: &Event, scored: &Scored, hits: &[ListHit]) -> DecisionRecord {
    event.judged(&definitions(), |subject| {
        let decision = judge.decide(subject, &scored.score, hits);
        judge.record(subject, scored, hits.to_vec(), &decision, at(5))
    })
}

fn check(judge: &Judge, event: &Event, score: f64, hits: &[ListHit], expected: (Outcome, DecidedBy, &[&str])) {
    let record = record(judge, event, &scored(score), hits);
    let codes: Vec<_> = record.reasons.iter().map(|reason| reason.code.as_str()).collect();
    assert_eq!((record.outcome, record.decided_by, codes.as_slice()), expected, "{record:?}");
    assert_eq!(recompute(&record, judge.policy()), Ok((record.outcome, record.decided_by)));
}

#[test]
fn an_outcome_says_what_settled_it_and_why() {
    use DecidedBy::{List, Model, Rules};
    use Outcome::{Approve, Block, Review};
    let judge = judge_of(POLICY);
    let calm = Event::new(1, 10.0, 1_000);
    let burst = Event::new(11, 1.0, 100);
    let abroad = Event { country: Some("BR"), ..Event::new(1, 10.0, 1_000) };
    check(&judge, &calm, 0.1, &[], (Approve, Model, &[]));
    check(&judge, &calm, 0.4, &[], (Review, Model, &["score_review"]));
    check(&judge, &calm, 0.8, &[], (Block, Model, &["score_block"]));
    check(&judge, &burst, 0.1, &[], (Block, Rules, &["card_testing"]));
    check(&judge, &burst, 0.9, &[], (Block, Rules, &["card_testing", "score_block"]));
    check(&judge, &abroad, 0.35, &[], (Review, Rules, &["abroad"]));
    check(&judge, &abroad, 0.3, &[], (Approve, Model, &[]));
    check(
        &judge,
        &burst,
        0.9,
        &[hit(ListKind::Allow)],
        (Approve, List, &["allow_list", "card_testing", "score_block"]),
    );
    check(&judge, &calm, 0.1, &[hit(ListKind::AutomaticBlock)], (Block, List, &["automatic_block"]));
    let both = [hit(ListKind::Allow), hit(ListKind::AutomaticBlock)];
    check(&judge, &calm, 0.1, &both, (Approve, List, &["allow_list", "automatic_block"]));
    let all = [hit(ListKind::ManualBlock), hit(ListKind::Allow)];
    check(&judge, &calm, 0.1, &all, (Block, List, &["manual_block", "allow_list"]));
}

#[test]
fn a_rule_on_null_is_not_hit_and_names_what_it_lacked() {
    let judge = judge_of(POLICY);
    let mut event = Event::new(11, 1.0, 100);
    event.vector[0] = flagged(Value::Null, Flags::NO_STATE);
    event.country = None;
    let record = record(&judge, &event, &scored(0.1), &[]);
    let missing =
        |id: &str| record.rules.iter().find(|rule| rule.id == id).map(|rule| (rule.hit, rule.missing.clone()));
    assert_eq!(missing("card_testing"), Some((false, vec!["customer_spend.tx_count_1d".to_owned()])));
    // 0.1 > 0.3 is false whatever the country is: nothing was lacking.
    assert_eq!(missing("abroad"), None);
    assert_eq!(record.outcome, Outcome::Approve);
    assert_eq!(record.degraded, ["customer_spend.tx_count_1d"]);
}

#[test]
fn a_rule_on_the_score_lacks_it_when_the_model_failed() {
    let judge = judge_of(POLICY);
    let event = Event { country: Some("BR"), ..Event::new(1, 1.0, 100_000) };
    let failed = Scored { score: Score::Failed("the model failed on 1 rows".to_owned()), micros: 0 };
    let record = record(&judge, &event, &failed, &[]);
    assert_eq!((record.outcome, record.decided_by, record.score), (Outcome::Review, DecidedBy::Default, None));
    assert_eq!(record.reasons[0].code, "no_score");
    assert_eq!(record.rules[0].missing, ["score"]);
    assert_eq!(record.models[0].score, None);
    assert_eq!(recompute(&record, judge.policy()), Ok((Outcome::Review, DecidedBy::Default)));
    // A block rule needs no score.
    let burst = self::record(&judge, &Event::new(11, 1.0, 100), &failed, &[]);
    assert_eq!((burst.outcome, burst.decided_by), (Outcome::Block, DecidedBy::Rules));
}

#[test]
fn division_by_zero_is_no_hit_and_is_said() {
    let judge = judge_of(
        "[[rule]]\nid = \"ratio\"\nwhen = \"amount / customer_spend.amount_avg_1d > 3.0\"\noutcome = \"block\"\nreason = \"r\"",
    );
    let event = Event::new(1, 0.0, 100);
    event.judged(&definitions(), |subject| {
        let decision = judge.decide(subject, &Score::Given(0.1), &[]);
        assert_eq!(decision.findings[0].result, FindingResult::NoValue);
    });
    let record = record(&judge, &event, &scored(0.1), &[]);
    assert!(record.rules[0].error.as_deref().is_some_and(|error| error.contains("division by zero")));
    assert!(!record.rules[0].hit);
}

#[test]
fn what_matters_and_is_missing_or_stale_is_listed_once() {
    let judge = judge_of(POLICY);
    let check = |change: &dyn Fn(&mut Event), expected: &[&str]| {
        let mut event = Event::new(1, 1.0, 1_000);
        change(&mut event);
        assert_eq!(record(&judge, &event, &scored(0.1), &[]).degraded, expected);
    };
    check(&|_| {}, &[]);
    check(&|event| event.vector[0] = flagged(Value::Int(3), Flags::STALE), &["customer_spend.tx_count_1d"]);
    check(&|event| event.vector[3] = flagged(Value::Double(3.0), Flags::TRUNCATED), &["customer_spend.amount_avg_7d"]);
    check(&|event| event.vector[3] = flagged(Value::Null, Flags::NO_KEY), &["customer_spend.amount_avg_7d"]);
    check(&|event| event.vector[3] = reading(Value::Null), &[]);
    check(&|event| event.vector[3] = flagged(Value::Double(2.0), Flags::TILED), &[]);
    check(&|event| event.vector[1] = flagged(Value::Null, Flags::STALE), &[]);
    check(&|event| event.amount_cents = interdict_features::value::NULL, &["amount"]);
    check(&|event| event.vector.clear(), &["customer_spend.tx_count_1d", "customer_spend.amount_avg_7d"]);
}

#[test]
fn a_policy_may_let_nothing_degraded_pass() {
    let judge = judge_of(&POLICY.replace("degraded = \"decide\"", "degraded = \"review\""));
    let mut event = Event::new(1, 1.0, 1_000);
    event.vector[0] = flagged(Value::Int(3), Flags::STALE);
    check(&judge, &event, 0.1, &[], (Outcome::Review, DecidedBy::Default, &["degraded"]));
    check(&judge, &event, 0.9, &[], (Outcome::Block, DecidedBy::Model, &["score_block"]));
    check(&judge, &event, 0.1, &[hit(ListKind::Allow)], (Outcome::Approve, DecidedBy::List, &["allow_list"]));
}

#[test]
fn a_block_made_by_one_event_is_met_by_the_next() {
    let judge = judge_of(POLICY);
    let mut lists = Lists::new(10, []);
    let mut outcomes = Vec::new();
    for (count, second) in [(11, 0), (1, 1), (1, 7 * 86_400)] {
        let event = Event::new(count, 1.0, 100);
        let now = at(second);
        let record = event.judged(&definitions(), |subject| {
            let hits = lists.hits(subject.entities, now);
            let decision = judge.decide(subject, &Score::Given(0.1), &hits);
            judge.record(subject, &scored(0.1), hits, &decision, now)
        });
        let claim = judge.claim(&record).unwrap();
        assert_eq!(serde_json::from_slice::<DecisionRecord>(&claim.record).unwrap(), record);
        for entry in claim.lists {
            lists.put(entry);
        }
        outcomes.push((record.outcome, record.decided_by, record.actions.len(), claim.intents.len()));
    }
    // Blocked by the rule with both actions, then by the list with none, then free again: the block has ended.
    assert_eq!(
        outcomes,
        [
            (Outcome::Block, DecidedBy::Rules, 2, 1),
            (Outcome::Block, DecidedBy::List, 0, 0),
            (Outcome::Approve, DecidedBy::Model, 0, 0),
        ]
    );
}

#[test]
fn a_claim_carries_its_effects_under_its_id() {
    let judge = judge_of(POLICY);
    let record = record(&judge, &Event::new(11, 1.0, 100), &scored(0.1), &[]);
    let claim = judge.claim(&record).unwrap();
    let id = decision_id("test", "transactions", "1001", 0);
    assert_eq!((claim.id, record.decision_id), (id, id));
    let [ListEntry { list, entity, reason, decision, expires, .. }] = claim.lists.as_slice() else { panic!("one") };
    assert_eq!((*list, entity, reason.as_str()), (ListKind::AutomaticBlock, &customer("7"), "many small payments"));
    assert_eq!((*decision, *expires), (Some(id), Some(at(5 + 7 * 86_400))));
    assert_eq!((claim.intents[0].decision, claim.intents[0].action.as_str()), (id, "tell_desk"));
    let body: serde_json::Value = serde_json::from_str(&claim.intents[0].payload).unwrap();
    assert_eq!(body["type"], "interdict.decision.block");
    assert_eq!(body["data"]["target"]["key"], "7");
    assert_eq!(body["data"]["columns"], serde_json::json!({"amount": 1.0}));
}

#[test]
fn an_action_without_a_key_is_not_wanted_and_is_said() {
    let judge = judge_of(POLICY);
    let mut event = Event::new(11, 1.0, 100);
    event.entities.remove(0);
    let record = record(&judge, &event, &scored(0.1), &[]);
    assert!(record.actions.is_empty());
    let codes: Vec<_> = record.reasons.iter().map(|reason| reason.code.as_str()).collect();
    assert_eq!(codes, ["card_testing", "no_target", "no_target"]);
}

#[test]
fn an_event_that_cannot_be_judged_gets_the_default() {
    for (default, outcome) in [("approve", Outcome::Approve), ("review", Outcome::Review), ("block", Outcome::Block)] {
        let judge = judge_of(&POLICY.replace("default = \"review\"", &format!("default = \"{default}\"")));
        let record = judge.not_judged(&context(), None, &[], Vec::new(), "the row has no time", at(5));
        assert_eq!((record.outcome, record.decided_by), (outcome, DecidedBy::Default));
        assert_eq!((record.reasons[0].code.as_str(), record.actions.len()), ("not_judged", 0));
        assert_eq!(recompute(&record, judge.policy()), Ok((outcome, DecidedBy::Default)));
        assert!(judge.claim(&record).unwrap().intents.is_empty());
    }
}

#[test]
fn lists_bind_what_cannot_be_judged() {
    let judge = judge_of(&POLICY.replace("default = \"review\"", "default = \"approve\""));
    let check = |lists: &[ListKind], outcome, by| {
        let hits: Vec<ListHit> = lists.iter().copied().map(hit).collect();
        let record = judge.not_judged(&context(), None, &[customer("7")], hits, "the deadline came", at(5));
        assert_eq!((record.outcome, record.decided_by, record.list_hits.len()), (outcome, by, lists.len()));
        assert_eq!(record.reasons.last().map(|reason| reason.code.as_str()), Some("not_judged"));
        assert_eq!(recompute(&record, judge.policy()), Ok((outcome, by)));
    };
    check(&[], Outcome::Approve, DecidedBy::Default);
    check(&[ListKind::ManualBlock], Outcome::Block, DecidedBy::List);
    check(&[ListKind::AutomaticBlock], Outcome::Block, DecidedBy::List);
    check(&[ListKind::Allow, ListKind::AutomaticBlock], Outcome::Approve, DecidedBy::List);
    check(&[ListKind::Allow, ListKind::ManualBlock], Outcome::Block, DecidedBy::List);
}

#[test]
fn without_a_model_rules_decide_alone() {
    let policy = POLICY.replace("bundle = \"bundles/forest\"", "");
    let judge = Judge::new("test", Arc::new(read_policy(&policy).unwrap()), &definitions(), 0, None).unwrap();
    let calm = record(&judge, &Event::new(1, 1.0, 1_000), &Scored::NOT_ASKED, &[]);
    assert_eq!((calm.outcome, calm.decided_by, calm.thresholds), (Outcome::Approve, DecidedBy::Rules, None));
    assert!(calm.models.is_empty());
    let burst = record(&judge, &Event::new(11, 1.0, 100), &Scored::NOT_ASKED, &[]);
    assert_eq!((burst.outcome, burst.decided_by), (Outcome::Block, DecidedBy::Rules));
}

#[test]
fn thresholds_that_contradict_the_bundles_are_refused() {
    let policy = read_policy(&POLICY.replace("review = 0.4", "review = 0.85")).unwrap();
    let error = Judge::new("test", Arc::new(policy), &definitions(), 0, Some(model())).unwrap_err().to_string();
    assert!(error.contains("0.85 lies over the block threshold 0.8"), "{error}");
}

#[test]
fn a_record_of_another_policy_is_not_recomputed() {
    let judge = judge_of(POLICY);
    let record = record(&judge, &Event::new(11, 1.0, 100), &scored(0.1), &[]);
    let newer: Policy = read_policy(&POLICY.replace("version = 3", "version = 4")).unwrap();
    let expected = RecomputeError::UnknownRule { id: "card_testing".to_owned(), version: 3 };
    assert_eq!(recompute(&record, &newer), Err(expected));
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        (-5_i64..30).prop_map(Value::Int),
        any::<f64>().prop_map(Value::Double),
        (-5.0..30.0_f64).prop_map(Value::Double),
        any::<bool>().prop_map(Value::Bool),
        Just(Value::Text("text".into())),
    ]
}

fn scores() -> impl Strategy<Value = Score> {
    prop_oneof![
        (0.0..=1.0_f64).prop_map(Score::Given),
        prop_oneof![Just(0.4), Just(0.8), Just(0.3)].prop_map(Score::Given),
        any::<f64>().prop_map(Score::Given),
        Just(Score::Failed("failed".to_owned())),
    ]
}

fn flags() -> impl Strategy<Value = Flags> {
    let one = || {
        prop_oneof![
            Just(Flags::NONE),
            Just(Flags::NO_KEY),
            Just(Flags::NO_STATE),
            Just(Flags::TRUNCATED),
            Just(Flags::STALE)
        ]
    };
    (one(), one()).prop_map(|(a, b)| a.with(b))
}

proptest! {
    #[test]
    fn a_record_recomputes_to_its_own_decision(
        readings in proptest::collection::vec((values(), flags()), 0..7),
        amount in 0_i64..100_000,
        is_abroad: bool,
        score in scores(),
        lists in proptest::collection::vec(prop_oneof![
            Just(ListKind::ManualBlock), Just(ListKind::Allow), Just(ListKind::AutomaticBlock)
        ], 0..3),
        is_strict: bool,
    ) {
        let text = if is_strict { POLICY.replace("\"decide\"", "\"review\"") } else { POLICY.to_owned() };
        let judge = judge_of(&text);
        let mut event = Event::new(1, 1.0, amount);
        event.country = Some(if is_abroad { "BR" } else { "NL" });
        event.vector = readings.into_iter().map(|(value, flags)| flagged(value, flags)).collect();
        let hits: Vec<_> = lists.into_iter().map(hit).collect();
        let given = Scored { score, micros: 1 };
        let first = record(&judge, &event, &given, &hits);
        prop_assert_eq!(&first, &record(&judge, &event, &given, &hits));
        prop_assert_eq!(recompute(&first, judge.policy()), Ok((first.outcome, first.decided_by)));
        // What was stored is what was decided, numbers that JSON cannot hold apart.
        if first.features.iter().all(|it| !matches!(it.reading.value, Value::Double(value) if !value.is_finite())) {
            let stored: DecisionRecord = serde_json::from_slice(&judge.claim(&first).unwrap().record).unwrap();
            prop_assert_eq!(recompute(&stored, judge.policy()), Ok((first.outcome, first.decided_by)));
        }
        if first.outcome == Outcome::Approve && is_strict && first.decided_by != DecidedBy::List {
            prop_assert!(first.degraded.is_empty());
        }
    }
}
