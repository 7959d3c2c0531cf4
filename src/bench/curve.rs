//! How the engine's cost grows: linear in events, flat in window length and in idle keys (DESIGN section 8).

use std::sync::Arc;
use std::time::Duration;

use interdict_features::change::ChangeBatch;
use interdict_features::engine::{Engine, Evaluate, Output, Plan};
use serde_json::{Value, json};

use crate::run::clock;
use crate::simulate::generator::HANDBOOK_START_MICROS;

use super::engine::in_memory;
use super::traffic::{Rows, batches, definitions};

const EVENTS: usize = 400_000;
const ROUNDS: usize = 3;
/// The payments of 41 days are spread over this many times as long, so that a window of a year fills.
const STRETCH: i64 = 10;
const WINDOW_DAYS: [u32; 5] = [1, 7, 30, 90, 365];
const IDLE_KEYS: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
const EVENT_COUNTS: [usize; 4] = [250_000, 500_000, 1_000_000, 2_000_000];

/// Measures the three curves.
pub(super) fn measure(rows: Rows, threads: usize) -> anyhow::Result<Value> {
    let mut windows = Vec::new();
    for days in WINDOW_DAYS {
        let plan = definitions(rows, &[&format!("{days}d")])?;
        let traffic = batches(&plan, EVENTS, |transaction| {
            let since = transaction.time_micros - HANDBOOK_START_MICROS;
            transaction.time_micros = HANDBOOK_START_MICROS + since * STRETCH;
        });
        let time = median(|| Ok(in_memory(&plan, &traffic, threads)?.0))?;
        windows.push(json!({ "window_days": days, "nanoseconds_per_event": nanoseconds(time, EVENTS) }));
    }
    let plan = definitions(rows, &["1d", "7d", "30d"])?;
    let traffic = batches(&plan, EVENTS, |_| {});
    let mut idle = Vec::new();
    for keys in IDLE_KEYS {
        let time = median(|| with_idle_keys(&plan, &traffic, keys, threads))?;
        idle.push(json!({ "idle_keys": keys, "nanoseconds_per_event": nanoseconds(time, EVENTS) }));
    }
    let mut events = Vec::new();
    for count in EVENT_COUNTS {
        let traffic = batches(&plan, count, |_| {});
        let time = median(|| Ok(in_memory(&plan, &traffic, threads)?.0))?;
        events.push(json!({ "events": count, "nanoseconds_per_event": nanoseconds(time, count) }));
    }
    Ok(json!({ "window_length": windows, "idle_keys": idle, "events": events }))
}

/// The traffic in an engine that also holds so many keys that do nothing.
fn with_idle_keys(plan: &Arc<Plan>, traffic: &[ChangeBatch], keys: usize, threads: usize) -> anyhow::Result<Duration> {
    let mut engine = Engine::new(Arc::clone(plan), threads);
    let mut output = Output::default();
    let first = 1_i64 << 40;
    let idle = batches(plan, keys.div_ceil(2), |transaction| {
        transaction.id += first;
        // Keys far from those of the traffic.
        transaction.customer += transaction.id;
        transaction.terminal += transaction.id;
    });
    for batch in &idle {
        engine.process(batch, Evaluate::Nothing, &mut output)?;
    }
    let began = clock::instant();
    for batch in traffic {
        engine.process(batch, Evaluate::Everything, &mut output)?;
        std::hint::black_box(output.readouts());
    }
    Ok(began.elapsed())
}

fn median(mut round: impl FnMut() -> anyhow::Result<Duration>) -> anyhow::Result<Duration> {
    let mut times = (0..ROUNDS).map(|_| round()).collect::<anyhow::Result<Vec<Duration>>>()?;
    times.sort();
    Ok(times[ROUNDS / 2])
}

#[expect(clippy::cast_precision_loss, reason = "a figure for reading")]
fn nanoseconds(time: Duration, events: usize) -> f64 {
    (time.as_nanos() as f64 / events as f64).round()
}
