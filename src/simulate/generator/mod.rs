//! The transaction generator: the method of the Fraud Detection Handbook, chapter 3 (Le Borgne, Siblini, Lebichot,
//! Bontempi), with two more kinds of fraud and with chargebacks that arrive late.
//!
//! Customers and terminals have positions on a grid of 100 by 100. A customer pays at terminals within a radius, a
//! Poisson number of times per day, amounts around a mean of their own. Fraud is laid over that by scenarios.
//!
//! Invariant: the output is a function of [`Config`] alone, whatever the number of threads: every customer and every
//! day draws from a random stream of its own.
//! Invariant: identifiers ascend without gaps in order of time; memory holds the population and one day.

mod campaign;
mod day;
#[cfg(test)]
mod tests;
mod world;

use campaign::Campaigns;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use world::World;

/// Microseconds of one day.
pub(crate) const DAY_MICROS: i64 = 86_400_000_000;

/// The start of the handbook's data: 2018-04-01T00:00:00Z.
pub(crate) const HANDBOOK_START_MICROS: i64 = 1_522_540_800_000_000;

/// No generated instant lies beyond the year 9999, where text forms of instants end.
const TIME_MICROS_MAX: i64 = 253_402_300_799_999_999;

/// What is generated.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// Everything drawn follows from it.
    pub(crate) seed: u64,
    /// How many customers there are, at least one.
    pub(crate) customers: u32,
    /// How many terminals there are, at least one.
    pub(crate) terminals: u32,
    /// How far from home, in grid units, a customer pays. A customer with no terminal within it uses the nearest.
    pub(crate) radius: f64,
    /// Nothing lies before it, microseconds since the epoch. Days are those of UTC, the first may be cut.
    pub(crate) start_micros: i64,
    /// Where the output ends.
    pub(crate) length: Length,
    /// Identifier of the first transaction.
    pub(crate) first_id: i64,
    /// How much fraud there is.
    pub(crate) fraud: FraudRates,
    /// When frauds are reported.
    pub(crate) chargebacks: Chargebacks,
}

impl Default for Config {
    /// The handbook's population and days, about 1.75 million transactions.
    fn default() -> Self {
        Self {
            seed: 0,
            customers: 5_000,
            terminals: 10_000,
            radius: 5.0,
            start_micros: HANDBOOK_START_MICROS,
            length: Length::Days(183),
            first_id: 0,
            fraud: FraudRates::default(),
            chargebacks: Chargebacks::default(),
        }
    }
}

impl Config {
    /// The beginning of the first day, at or before the start.
    pub(crate) const fn first_midnight(&self) -> i64 {
        self.start_micros - self.start_micros.rem_euclid(DAY_MICROS)
    }
}

/// Where the output ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// After so many days.
    Days(u32),
    /// After exactly so many transactions, on whatever day that is.
    Transactions(u64),
}

/// How often each kind of fraud begins, per day, for a population of the handbook's size (5,000 customers, 10,000
/// terminals); other sizes are scaled in proportion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FraudRates {
    /// Scenario 1 marks every amount above this many minor units; `None` switches it off.
    pub(crate) amount_max_minor: Option<i64>,
    /// Scenario 2: terminals compromised per day, for 28 days each.
    pub(crate) terminals: f64,
    /// Scenario 3: customers whose card data leak per day, for 14 days each.
    pub(crate) customers: f64,
    /// Scenario 4: card-testing bursts per day.
    pub(crate) bursts: f64,
    /// Scenario 5: accounts taken over per day, for 2 days each.
    pub(crate) takeovers: f64,
}

impl Default for FraudRates {
    fn default() -> Self {
        Self { amount_max_minor: Some(22_000), terminals: 2.0, customers: 3.0, bursts: 1.0, takeovers: 1.0 }
    }
}

impl FraudRates {
    /// The handbook's own three scenarios.
    pub(crate) const HANDBOOK: Self =
        Self { amount_max_minor: Some(22_000), terminals: 2.0, customers: 3.0, bursts: 0.0, takeovers: 0.0 };
}

/// When frauds are reported: between `delay - spread` and `delay + spread` after the transaction, never before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Chargebacks {
    /// The middle of the delay.
    pub(crate) delay_micros: i64,
    /// How far a report may lie from the middle.
    pub(crate) spread_micros: i64,
    /// The share of frauds nobody ever reports.
    pub(crate) unreported: f64,
}

impl Default for Chargebacks {
    fn default() -> Self {
        Self { delay_micros: 7 * DAY_MICROS, spread_micros: DAY_MICROS, unreported: 0.0 }
    }
}

/// How a fraud was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Scenario {
    /// An amount above the limit: the plain case any detector must find.
    LargeAmount = 1,
    /// A payment at a terminal that is compromised.
    CompromisedTerminal = 2,
    /// One of a third of the payments of a customer whose card data leaked: five times the amount.
    LeakedCard = 3,
    /// One of ten or more tiny amounts within seconds on one card, or the large amount after them.
    CardTesting = 4,
    /// A payment far from the customer's home, from another device, of a higher amount.
    AccountTakeover = 5,
}

impl Scenario {
    /// All scenarios in order of their numbers.
    pub(crate) const ALL: [Self; 5] =
        [Self::LargeAmount, Self::CompromisedTerminal, Self::LeakedCard, Self::CardTesting, Self::AccountTakeover];

    /// The scenario's number, 1 to 5; the handbook numbers the first three so.
    #[must_use]
    pub(crate) const fn number(self) -> u8 {
        self as u8
    }

    /// A short name for tables.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::LargeAmount => "large_amount",
            Self::CompromisedTerminal => "compromised_terminal",
            Self::LeakedCard => "leaked_card",
            Self::CardTesting => "card_testing",
            Self::AccountTakeover => "account_takeover",
        }
    }
}

/// One card payment, with the truth about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Transaction {
    /// Ascends without gaps in order of time.
    pub(crate) id: i64,
    /// Microseconds since the epoch.
    pub(crate) time_micros: i64,
    /// Who pays, from 0.
    pub(crate) customer: i64,
    /// Where, from 0.
    pub(crate) terminal: i64,
    /// In minor units (cents).
    pub(crate) amount_minor: i64,
    /// The device the payment came from.
    pub(crate) device: u64,
    /// Degrees north of the terminal.
    pub(crate) latitude: f64,
    /// Degrees east of the terminal.
    pub(crate) longitude: f64,
    /// How it is fraudulent; `None` for a genuine payment.
    pub(crate) scenario: Option<Scenario>,
    /// When its chargeback is reported; `None` for a genuine payment and for a fraud that is never reported.
    pub(crate) reported_micros: Option<i64>,
}

impl Transaction {
    /// Whether it is in truth fraudulent, reported or not.
    #[must_use]
    pub(crate) const fn is_fraud(&self) -> bool {
        self.scenario.is_some()
    }
}

/// Transactions in order of time, until the configured length is reached or the year 9999 ends.
#[derive(Debug)]
pub(crate) struct Generator {
    config: Config,
    world: World,
    campaigns: Campaigns,
    day: u32,
    drawn: Vec<Transaction>,
    next: usize,
    count: u64,
}

impl Generator {
    /// Draws the population; the first day is drawn with the first transaction. A configured zero of customers or
    /// terminals is taken as one.
    #[must_use]
    pub(crate) fn new(mut config: Config) -> Self {
        config.customers = config.customers.max(1);
        config.terminals = config.terminals.max(1);
        let world = World::draw(&config);
        let campaigns = Campaigns::new(&config);
        Self { config, world, campaigns, day: 0, drawn: Vec::new(), next: 0, count: 0 }
    }

    /// About how many transactions will come: exact where a number was asked for.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate, positive and far below 2^63"
    )]
    pub(crate) fn expected(&self) -> u64 {
        match self.config.length {
            Length::Transactions(count) => count,
            Length::Days(days) => (self.world.daily_rate() * f64::from(days)) as u64,
        }
    }

    fn is_over(&self) -> bool {
        match self.config.length {
            Length::Transactions(count) => self.count >= count,
            Length::Days(days) => self.next == self.drawn.len() && self.day >= days,
        }
    }

    fn draw_day(&mut self) -> bool {
        let midnight = self.config.first_midnight().saturating_add(i64::from(self.day).saturating_mul(DAY_MICROS));
        if midnight > TIME_MICROS_MAX - DAY_MICROS || self.day == LAST_DAY {
            return false;
        }
        self.campaigns.begin_day(self.day);
        self.drawn.clear();
        day::draw(&self.config, &self.world, &self.campaigns, self.day, midnight, &mut self.drawn);
        self.next = self.drawn.partition_point(|transaction| transaction.time_micros < self.config.start_micros);
        self.day += 1;
        true
    }
}

impl Iterator for Generator {
    type Item = Transaction;

    fn next(&mut self) -> Option<Transaction> {
        loop {
            if self.is_over() {
                return None;
            }
            if let Some(transaction) = self.drawn.get_mut(self.next) {
                transaction.id = self.config.first_id.checked_add_unsigned(self.count)?;
                self.next += 1;
                self.count += 1;
                return Some(*transaction);
            }
            if !self.draw_day() {
                return None;
            }
        }
    }
}

/// What a random stream is drawn for.
#[derive(Clone, Copy)]
enum Draw {
    Customer = 1,
    Terminal = 2,
    CustomerDay = 3,
    Campaign = 4,
    Burst = 5,
    Takeover = 6,
    Report = 7,
    Disturbance = 8,
    Delivery = 9,
}

/// Days have 28 bits in a stream's number.
const LAST_DAY: u32 = (1 << 28) - 1;

/// The random stream of one thing on one day: independent of every other and of the order they are drawn in.
fn stream(seed: u64, draw: Draw, day: u32, index: u32) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(((draw as u64) << 60) | (u64::from(day) << 32) | u64::from(index));
    random
}

/// The random stream that disturbs one transaction's changes.
pub(crate) fn disturbance_stream(seed: u64, id: i64) -> ChaCha8Rng {
    numbered_stream(seed, Draw::Disturbance, id.unsigned_abs())
}

/// The random stream that disturbs the delivery of one commit.
pub(crate) fn delivery_stream(seed: u64, commit: u64) -> ChaCha8Rng {
    numbered_stream(seed, Draw::Delivery, commit)
}

fn numbered_stream(seed: u64, draw: Draw, number: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(((draw as u64) << 60) | (number & ((1 << 60) - 1)));
    random
}
