//! Which terminals, customers and accounts are under attack on a day.
//!
//! Invariant: what begins on a day depends on the seed and the day alone.

use rand::RngExt;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use super::{Config, Draw, stream};

/// Scenario 2 lasts so many days.
const TERMINAL_DAYS: u32 = 28;
/// Scenario 3 lasts so many days.
const CUSTOMER_DAYS: u32 = 14;
/// Scenario 5 lasts so many days: then the customer notices.
const TAKEOVER_DAYS: u32 = 2;
/// The population that rates are given for.
const CUSTOMERS_OF_HANDBOOK: f64 = 5_000.0;
const TERMINALS_OF_HANDBOOK: f64 = 10_000.0;

#[derive(Debug)]
pub(super) struct Campaigns {
    seed: u64,
    terminals_per_day: f64,
    customers_per_day: f64,
    bursts_per_day: f64,
    takeovers_per_day: f64,
    /// Per terminal the day its compromise ends, 0 where there was none.
    terminal_ends: Vec<u32>,
    /// Per customer the day the misuse of leaked data ends.
    customer_ends: Vec<u32>,
    bursts: Vec<u32>,
    takeovers: Vec<Takeover>,
}

/// An account in foreign hands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Takeover {
    pub(super) customer: u32,
    pub(super) began: u32,
}

impl Campaigns {
    pub(super) fn new(config: &Config) -> Self {
        let customers = f64::from(config.customers) / CUSTOMERS_OF_HANDBOOK;
        let terminals = f64::from(config.terminals) / TERMINALS_OF_HANDBOOK;
        Self {
            seed: config.seed,
            terminals_per_day: config.fraud.terminals * terminals,
            customers_per_day: config.fraud.customers * customers,
            bursts_per_day: config.fraud.bursts * customers,
            takeovers_per_day: config.fraud.takeovers * customers,
            terminal_ends: vec![0; config.terminals as usize],
            customer_ends: vec![0; config.customers as usize],
            bursts: Vec::new(),
            takeovers: Vec::new(),
        }
    }

    /// Starts what begins on `day` and ends what is over; days are begun in order.
    pub(super) fn begin_day(&mut self, day: u32) {
        let mut random = stream(self.seed, Draw::Campaign, day, 0);
        for terminal in chosen(&mut random, self.terminal_ends.len(), self.terminals_per_day) {
            self.terminal_ends[terminal] = day + TERMINAL_DAYS;
        }
        let customers = self.customer_ends.len();
        for customer in chosen(&mut random, customers, self.customers_per_day) {
            self.customer_ends[customer] = day + CUSTOMER_DAYS;
        }
        let numbered = |customer: usize| u32::try_from(customer).expect("customers are counted in 32 bits");
        self.bursts.clear();
        self.bursts.extend(chosen(&mut random, customers, self.bursts_per_day).map(numbered));
        self.takeovers.retain(|takeover| day < takeover.began + TAKEOVER_DAYS);
        let begun = chosen(&mut random, customers, self.takeovers_per_day);
        self.takeovers.extend(begun.map(|customer| Takeover { customer: numbered(customer), began: day }));
    }

    pub(super) fn is_terminal_compromised(&self, terminal: u32, day: u32) -> bool {
        day < self.terminal_ends[terminal as usize]
    }

    pub(super) fn is_card_leaked(&self, customer: u32, day: u32) -> bool {
        day < self.customer_ends[customer as usize]
    }

    /// Customers whose card is tested today.
    pub(super) fn bursts(&self) -> &[u32] {
        &self.bursts
    }

    /// Accounts in foreign hands today.
    pub(super) fn takeovers(&self) -> &[Takeover] {
        &self.takeovers
    }
}

/// Distinct indices below `population`: the whole part of `rate`, and one more as often as its fraction says.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded by the population")]
#[expect(clippy::cast_precision_loss, reason = "a population of 32 bits is exact in a double")]
fn chosen(random: &mut ChaCha8Rng, population: usize, rate: f64) -> index::IndexVecIntoIter {
    let rate = rate.clamp(0.0, population as f64);
    let more = usize::from(random.random::<f64>() < rate.fract());
    index::sample(random, population, (rate as usize + more).min(population)).into_iter()
}
