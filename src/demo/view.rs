//! What the live view shows, as lines: 24 of at most 80 columns.

use std::net::SocketAddr;
use std::time::Duration;

use interdict_features::time::Timestamp;
use interdict_monitor::monitor::MonitorState;

use crate::simulate::generator::Scenario;

use super::latency::Percentiles;
use super::numbers::{duration, grouped, minute};
use super::screen::Line;
use super::tally::{Blocked, Counts, Payment};

/// Ids of the example requests lie over all simulated ones.
const REQUEST_IDS: i64 = 9_000_000_000;

/// One moment of the demo.
#[derive(Clone, Debug)]
pub(super) struct Picture<'a> {
    pub(super) speed: u32,
    pub(super) simulated_micros: i64,
    pub(super) lived: Duration,
    /// Decisions per second of late.
    pub(super) rate: u64,
    pub(super) latency: Percentiles,
    pub(super) counts: Counts,
    /// The accounts blocked last, the newest last.
    pub(super) shown: Vec<Blocked>,
    pub(super) drift: String,
    pub(super) address: Option<SocketAddr>,
    pub(super) example: Option<Example>,
    pub(super) folder: &'a str,
}

/// A payment that requests are tried with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Example {
    pub(super) payment: Payment,
    /// Makes its id new.
    pub(super) number: i64,
}

/// The whole view.
pub(super) fn lines(picture: &Picture<'_>) -> Vec<Line> {
    let counts = &picture.counts;
    let [approved, reviewed, blocked] = counts.outcomes.map(grouped);
    let Percentiles { p50, p99, p999 } = picture.latency;
    let mut lines = vec![
        Line::Bold(format!(
            "interdict demo  simulated time {}  asked {}/s  for {} s",
            minute(picture.simulated_micros),
            grouped(picture.speed.into()),
            picture.lived.as_secs(),
        )),
        Line::Plain(format!(
            "decisions {:>7}/s  due to stored: p50 {}  p99 {}  p99.9 {}",
            grouped(picture.rate),
            duration(p50),
            duration(p99),
            duration(p999)
        )),
        Line::Plain(format!("          approved {approved}   to review {reviewed}   blocked {blocked}")),
        Line::Plain(String::new()),
    ];
    lines.extend(frauds_beside_accounts(counts, &picture.shown));
    lines.extend(genuine(counts).map(Line::Plain));
    lines.push(Line::Plain(format!("drift     {}", picture.drift)));
    lines.push(Line::Plain(String::new()));
    if let Some(address) = picture.address {
        lines.push(Line::Bold("next, in another terminal:".to_owned()));
        lines.extend(commands(address, picture.example).into_iter().map(Line::Plain));
    }
    lines.push(Line::Plain(format!("q ends   log and store: {}", picture.folder)));
    lines
}

/// Seven lines: frauds by scenario on the left, the accounts blocked last on the right.
fn frauds_beside_accounts(counts: &Counts, shown: &[Blocked]) -> Vec<Line> {
    let row =
        |name: &str, caught: &str, missed: &str, right: &str| format!("{name:<22}{caught:>7}{missed:>8}   {right}");
    let accounts = format!("accounts blocked: {}", grouped(counts.accounts_blocked));
    let mut lines = vec![Line::Bold(row("frauds", "caught", "missed", &accounts))];
    for (at, (scenario, fates)) in Scenario::ALL.iter().zip(&counts.frauds).enumerate() {
        let right = shown.iter().rev().nth(at);
        let right =
            right.map(|blocked| format!("customer {:<6} {}", blocked.account, blocked.reason)).unwrap_or_default();
        let (caught, missed) = (grouped(fates.caught().payments), grouped(fates.missed.payments));
        lines.push(Line::Plain(row(scenario.name(), &caught, &missed, &right)));
    }
    let all = counts.all_frauds();
    let (caught, missed) = (grouped(all.caught().payments), grouped(all.missed.payments));
    lines.push(Line::Plain(row("all", &caught, &missed, "")));
    lines
}

fn genuine(counts: &Counts) -> [String; 2] {
    let genuine = &counts.genuine;
    let count = |sum: super::tally::Sum| grouped(sum.payments);
    [
        format!("genuine   false blocks {}   to review {}", count(genuine.blocked), count(genuine.reviewed)),
        format!(
            "          stopped, account blocked: after fraud {}, by mistake {}",
            count(genuine.stopped_after_fraud),
            count(genuine.stopped_by_mistake)
        ),
    ]
}

/// Commands that work when pasted into a shell.
pub(super) fn commands(address: SocketAddr, example: Option<Example>) -> Vec<String> {
    let port = address.port();
    let mut lines = vec![format!("curl -s localhost:{port}/v1/blocks")];
    if let Some(Example { payment, number }) = example {
        // The next whole second: windows end with it, so that the payment itself is seen.
        let time = Timestamp::from_micros((payment.time_micros / 1_000_000 + 1) * 1_000_000);
        let (customer, terminal, id) = (payment.customer, payment.terminal, REQUEST_IDS + number);
        lines.push(format!("curl -s localhost:{port}/v1/entities/customer -H content-type:application/json \\"));
        lines.push(format!("  -d '{{\"key\": {customer}, \"as_of\": \"{time}\"}}'"));
        lines.push(format!("curl -s localhost:{port}/v1/decisions -H content-type:application/json \\"));
        lines.push(format!("  -d '{{\"event\": {{\"transaction_id\": {id}, \"customer_id\": {customer},"));
        lines.push(format!("  \"terminal_id\": {terminal}, \"tx_datetime\": \"{time}\", \"amount\": 99.50}}}}'"));
    }
    lines.push(format!("open http://localhost:{port}/metrics and http://localhost:{port}/openapi.json"));
    lines
}

/// The drift detector's standing in one line.
pub(super) fn drift(state: Option<&MonitorState>) -> String {
    let Some(state) = state else { return "not watched yet".to_owned() };
    let (rows, of) = state.filling;
    let window = format!("{} of {} rows", grouped(rows as u64), grouped(of as u64));
    let Some(batch) = &state.last else { return format!("no verdict yet, window {window} (a week)") };
    let largest = batch.columns.iter().max_by(|a, b| a.psi.value.total_cmp(&b.psi.value));
    let largest = largest.map(|column| format!("max psi {:.3} {}", column.psi.value, column.name)).unwrap_or_default();
    let verdict = match (&state.episode, batch.drifted().len()) {
        (Some(_), _) => "DRIFT CONFIRMED".to_owned(),
        (None, 0) => "no drift".to_owned(),
        (None, columns) => format!("{columns} columns drifted, not confirmed"),
    };
    format!("{verdict}  next {window}  {largest}")
}

/// One line for where no terminal is.
pub(super) fn plain(picture: &Picture<'_>) -> String {
    let counts = &picture.counts;
    let [approved, reviewed, blocked] = counts.outcomes;
    let all = counts.all_frauds();
    format!(
        "{} s  simulated {}  {}/s  p50 {} p99 {}  approved {approved} review {reviewed} blocked {blocked}  accounts blocked {}  \
         frauds caught {} missed {}  false blocks {}",
        picture.lived.as_secs(),
        minute(picture.simulated_micros),
        picture.rate,
        duration(picture.latency.p50),
        duration(picture.latency.p99),
        counts.accounts_blocked,
        all.caught().payments,
        all.missed.payments,
        counts.genuine.blocked.payments
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn fits_a_terminal_of_80_by_24() {
        let payment = Payment::sample(4_999, 9_999, 1_526_293_927_123_456);
        let address = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 58_080)));
        let mut counts =
            Counts { outcomes: [12_345_678, 123_456, 123_456], accounts_blocked: 4_999, ..Counts::default() };
        counts.genuine.blocked.payments = 12_345;
        let picture = Picture {
            speed: 1_000_000,
            simulated_micros: payment.time_micros,
            lived: Duration::from_secs(86_400),
            rate: 1_000_000,
            latency: Percentiles { p50: 123_456, p99: 123_456, p999: 12_345_678 },
            counts,
            shown: vec![Blocked { account: "4999".to_owned(), reason: "amount_far_above_usual".to_owned() }; 5],
            drift: "no drift   max psi 0.123 (customer_spend__amount_avg_30d)   window 66,999 of 67,000".to_owned(),
            address,
            example: Some(Example { payment, number: 99 }),
            folder: "/tmp/interdict-demo-abcdef",
        };
        let lines = lines(&picture);
        assert_eq!(lines.len(), 24);
        for line in &lines {
            let (Line::Plain(text) | Line::Bold(text)) = line;
            assert!(
                text.chars().count() <= 80 || text.starts_with("drift"),
                "{} columns: {text}",
                text.chars().count()
            );
        }
    }
}
