//! Scores and decisions of a chunk of events as columns.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::{ArrayRef, BooleanArray, Float64Array, StringArray};
use arrow_schema::{DataType, Field};
use interdict_features::backfill::{Column, FeatureColumn};
use interdict_features::change::ChangeBatch;
use interdict_features::decision::{DecidedBy, Outcome, SeenPosition};
use interdict_features::vector::Reading;
use interdict_scorer::judge::{Decision, FindingResult, Judge};
use interdict_scorer::runtime::Runtime;
use interdict_scorer::scorer::{Score, Scored, Scorer};
use interdict_scorer::session::BATCH_ROWS_MAX;
use interdict_scorer::subject::{Context, Subject};
use rayon::prelude::*;

/// Rows judged by one thread before it looks for others.
const PART_ROWS: usize = 4_096;

/// A judge, and a model session for each thread.
#[derive(Debug)]
pub(crate) struct Verdicts {
    judge: Judge,
    /// Those that no thread uses right now.
    scorers: Mutex<Vec<Scorer>>,
    context: Context,
}

/// The judged events of one part.
#[derive(Default)]
struct Judged {
    scores: Vec<Option<f64>>,
    outcomes: Vec<&'static str>,
    decided_by: Vec<&'static str>,
    rules: Vec<Option<String>>,
    degraded: Vec<bool>,
}

impl Verdicts {
    pub(super) fn new(judge: Judge, runtime: Option<&Runtime>, threads: usize) -> anyhow::Result<Self> {
        let mut scorers = Vec::new();
        if let (Some(model), Some(runtime)) = (judge.model(), runtime) {
            for _ in 0..threads {
                scorers.push(Scorer::open(runtime, Arc::clone(model))?);
            }
        }
        Ok(Self { judge, scorers: Mutex::new(scorers), context: Self::context() })
    }

    /// The circumstances of an event that nobody asks about: decisions do not depend on them.
    pub(crate) fn context() -> Context {
        Context {
            event_id: String::new(),
            judgement: 0,
            position: SeenPosition { partition: String::new(), position: 0 },
            seen: Vec::new(),
            event_time: None,
            arrival_time: None,
            as_of: BTreeMap::new(),
            idempotency_key: None,
            deadline_micros: None,
            left_micros: None,
            late: false,
        }
    }

    /// Whether a model scores the events.
    pub(crate) fn has_model(&self) -> bool {
        self.judge.model().is_some()
    }

    /// The columns that [`Self::columns`] gives.
    pub(crate) fn fields() -> Vec<Field> {
        vec![
            Field::new("score", DataType::Float64, true),
            Field::new("outcome", DataType::Utf8, false),
            Field::new("decided_by", DataType::Utf8, false),
            Field::new("rules", DataType::Utf8, true),
            Field::new("degraded", DataType::Boolean, false),
        ]
    }

    /// Judges the rows `rows` of `batch`, whose features are in `columns`, in the same order.
    pub(crate) fn columns(
        &self,
        batch: &ChangeBatch,
        rows: &[usize],
        named: &[FeatureColumn],
        columns: &[Column],
    ) -> Vec<ArrayRef> {
        let parts = rows.par_chunks(PART_ROWS).enumerate();
        let parts: Vec<Judged> = parts
            .map(|(part, rows)| {
                let mut scorer = self.take();
                let judged = self.judge_part(scorer.as_mut(), batch, (part * PART_ROWS, rows), named, columns);
                if let Some(scorer) = scorer {
                    self.scorers.lock().unwrap_or_else(PoisonError::into_inner).push(scorer);
                }
                judged
            })
            .collect();
        let each = || parts.iter();
        vec![
            Arc::new(each().flat_map(|part| &part.scores).copied().collect::<Float64Array>()),
            Arc::new(StringArray::from_iter_values(each().flat_map(|part| &part.outcomes))),
            Arc::new(StringArray::from_iter_values(each().flat_map(|part| &part.decided_by))),
            Arc::new(StringArray::from_iter(each().flat_map(|part| &part.rules).map(Option::as_deref))),
            Arc::new(BooleanArray::from_iter(each().flat_map(|part| &part.degraded).map(|is| Some(*is)))),
        ]
    }

    fn take(&self) -> Option<Scorer> {
        self.scorers.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn judge_part(
        &self,
        mut scorer: Option<&mut Scorer>,
        batch: &ChangeBatch,
        (from, rows): (usize, &[usize]),
        named: &[FeatureColumn],
        columns: &[Column],
    ) -> Judged {
        let width = named.iter().map(|column| column.feature + 1).max().unwrap_or(0);
        let mut judged = Judged::default();
        let mut vectors = vec![Reading::MISSING; width * BATCH_ROWS_MAX];
        let mut scored = Vec::with_capacity(BATCH_ROWS_MAX);
        for (run, rows) in rows.chunks(BATCH_ROWS_MAX).enumerate() {
            let from = from + run * BATCH_ROWS_MAX;
            for (column, named) in columns.iter().zip(named) {
                for at in 0..rows.len() {
                    vectors[at * width + named.feature] = column.reading(from + at);
                }
            }
            let subject = |(at, &row): (usize, &usize)| Subject {
                row: batch.row(row),
                vector: &vectors[at * width..(at + 1) * width],
                entities: &[],
                context: &self.context,
            };
            let subjects: Vec<Subject<'_>> = rows.iter().enumerate().map(subject).collect();
            scored.clear();
            match &mut scorer {
                Some(scorer) => scorer.score(&subjects, &mut scored),
                None => scored.resize(subjects.len(), Scored::NOT_ASKED),
            }
            for (subject, scored) in subjects.iter().zip(&scored) {
                let decision = self.judge.decide(subject, &scored.score, &[]);
                judged.push(&self.judge, &scored.score, &decision);
            }
        }
        judged
    }
}

impl Judged {
    fn push(&mut self, judge: &Judge, score: &Score, decision: &Decision) {
        self.scores.push(match score {
            Score::Given(score) => Some(*score),
            Score::Failed(_) | Score::NotAsked => None,
        });
        self.outcomes.push(match decision.outcome {
            Outcome::Approve => "approve",
            Outcome::Review => "review",
            Outcome::Block => "block",
        });
        self.decided_by.push(match decision.decided_by {
            DecidedBy::Model => "model",
            DecidedBy::FastModel => "fast_model",
            DecidedBy::Rules => "rules",
            DecidedBy::List => "list",
            DecidedBy::Default => "default",
        });
        let hits = decision.findings.iter().filter(|finding| finding.result == FindingResult::Hit);
        let hits: Vec<&str> = hits.map(|finding| judge.policy().rules[finding.rule].id.as_str()).collect();
        self.rules.push((!hits.is_empty()).then(|| hits.join(",")));
        self.degraded.push(!decision.degraded.is_empty());
    }
}
