//! The table at the end.

use std::time::Duration;

use interdict_monitor::monitor::MonitorState;

use crate::simulate::generator::Scenario;

use super::numbers::{duration, grouped, money};
use super::place::Place;
use super::tally::{Fates, Sum, Tally};
use super::view;

/// What is summed up.
pub(super) struct Summary<'a> {
    pub(super) tally: &'a Tally,
    pub(super) lived: Duration,
    pub(super) monitor: Option<&'a MonitorState>,
    pub(super) place: &'a Place,
}

impl Summary<'_> {
    pub(super) fn lines(&self) -> Vec<String> {
        let counts = self.tally.counts();
        let [approved, reviewed, blocked] = counts.outcomes.map(grouped);
        let millis = u64::try_from(self.lived.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = counts.decided().saturating_mul(1_000) / millis;
        let latency = self.tally.percentiles();
        let mut lines = vec![
            String::new(),
            format!("summary of {} s of live traffic", self.lived.as_secs()),
            row("decisions", &format!("{}   {}/s", grouped(counts.decided()), grouped(rate))),
            row("outcomes", &format!("approved {approved}, to review {reviewed}, blocked {blocked}")),
            row(
                "latency",
                &format!(
                    "p50 {}, p99 {}, p99.9 {} (from due to stored)",
                    duration(latency.p50),
                    duration(latency.p99),
                    duration(latency.p999)
                ),
            ),
            row("accounts blocked", &grouped(counts.accounts_blocked)),
        ];
        if counts.requests > 0 {
            lines.push(row("asked over HTTP", &grouped(counts.requests)));
        }
        if self.tally.undecided() > 0 {
            lines.push(row("undecided", &grouped(self.tally.undecided() as u64)));
        }
        lines.push(String::new());
        lines.extend(self.frauds());
        lines.push(String::new());
        lines.extend(self.genuine());
        lines.push(row("drift", &view::drift(self.monitor)));
        lines.extend(self.places());
        lines
    }

    fn frauds(&self) -> Vec<String> {
        let table = |name: &str, cells: [&str; 5]| {
            let [blocked, reviewed, missed, stopped, lost] = cells;
            format!("{name:<22}{blocked:>9}{reviewed:>9}{missed:>9}{stopped:>15}{lost:>15}")
        };
        let fates = |name: &str, fates: &Fates| {
            let stopped = money(fates.caught().minor);
            let count = |sum: Sum| grouped(sum.payments);
            let (blocked, reviewed, missed) = (count(fates.blocked), count(fates.reviewed), count(fates.missed));
            table(name, [&blocked, &reviewed, &missed, &stopped, &money(fates.missed.minor)])
        };
        let counts = self.tally.counts();
        let mut lines = vec![table("frauds", ["blocked", "review", "missed", "value caught", "value missed"])];
        lines.extend(Scenario::ALL.iter().zip(&counts.frauds).map(|(scenario, own)| fates(scenario.name(), own)));
        let all = counts.all_frauds();
        lines.push(fates("all", &all));
        lines.push(format!(
            "value of fraud stopped: {} blocked at once, {} held for review",
            money(all.blocked.minor),
            money(all.reviewed.minor)
        ));
        lines
    }

    fn genuine(&self) -> Vec<String> {
        let genuine = self.tally.counts().genuine;
        let sum = |sum: Sum| format!("{} ({})", grouped(sum.payments), money(sum.minor));
        vec![
            row("false blocks", &sum(genuine.blocked)),
            row("false reviews", &sum(genuine.reviewed)),
            "genuine payments stopped because their account is blocked:".to_owned(),
            row("  after a fraud", &sum(genuine.stopped_after_fraud)),
            row("  by mistake", &sum(genuine.stopped_by_mistake)),
        ]
    }

    fn places(&self) -> Vec<String> {
        if !self.place.is_kept() {
            return vec![row("folder", "removed; --folder FOLDER keeps store and decision log")];
        }
        let folder = self.place.folder();
        vec![
            row("decision log", &format!("{} (Parquet)", folder.join("data/decisions").display())),
            row("store", &folder.join("data").display().to_string()),
        ]
    }
}

fn row(name: &str, value: &str) -> String {
    format!("{name:<18}{value}")
}
