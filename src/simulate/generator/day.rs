//! One day's transactions: every customer's own, then those of thieves, sorted by time.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal, Poisson};
use rayon::prelude::*;

use super::campaign::{Campaigns, Takeover};
use super::world::{Customer, World};
use super::{Chargebacks, Config, DAY_MICROS, Draw, Scenario, Transaction, stream};

/// A report comes at the earliest so long after the transaction.
const REPORT_MICROS_MIN: i64 = 60_000_000;
/// Devices of customers are numbered from their customer; those of thieves have this bit.
const FOREIGN_DEVICE: u64 = 1 << 63;
/// A thief pays at least this far from the customer's home, in grid units.
const FAR: f64 = 40.0;
/// Smallest piece of work given to a thread, in customers.
const CUSTOMERS_PER_TASK: usize = 1024;

/// Draws the day beginning at `midnight` into `into`, in order of time and without identifiers.
pub(super) fn draw(
    config: &Config,
    world: &World,
    campaigns: &Campaigns,
    day: u32,
    midnight: i64,
    into: &mut Vec<Transaction>,
) {
    let today = Today { config, world, campaigns, day, midnight };
    into.par_extend((0..config.customers).into_par_iter().with_min_len(CUSTOMERS_PER_TASK).flat_map_iter(|customer| {
        let mut drawn = Vec::new();
        today.customer(customer, &mut drawn);
        drawn
    }));
    for customer in campaigns.bursts() {
        today.burst(*customer, into);
    }
    for takeover in campaigns.takeovers() {
        today.takeover(*takeover, into);
    }
    into.sort_by_key(|transaction| transaction.time_micros);
    for (index, transaction) in (0_u32..).zip(into.iter_mut()) {
        if transaction.scenario.is_some() {
            let mut random = stream(config.seed, Draw::Report, day, index);
            transaction.reported_micros = report(&config.chargebacks, transaction.time_micros, &mut random);
        }
    }
}

struct Today<'a> {
    config: &'a Config,
    world: &'a World,
    campaigns: &'a Campaigns,
    day: u32,
    midnight: i64,
}

impl Today<'_> {
    /// The customer's own payments; scenarios 1 to 3 mark some of them, a later scenario over an earlier one.
    fn customer(&self, index: u32, into: &mut Vec<Transaction>) {
        let customer = &self.world.customers[index as usize];
        let mut random = stream(self.config.seed, Draw::CustomerDay, self.day, index);
        for _ in 0..count(customer.rate, &mut random) {
            let Some(second) = second_of_day(&mut random) else {
                continue;
            };
            let terminal = self.world.terminal_near(customer, &mut random);
            let mut amount_minor = amount(customer, &mut random);
            let mut scenario = None;
            if self.config.fraud.amount_max_minor.is_some_and(|limit| amount_minor > limit) {
                scenario = Some(Scenario::LargeAmount);
            }
            if self.campaigns.is_terminal_compromised(terminal, self.day) {
                scenario = Some(Scenario::CompromisedTerminal);
            }
            let misused = random.random_range(0..3_u8) == 0;
            if misused && self.campaigns.is_card_leaked(index, self.day) {
                scenario = Some(Scenario::LeakedCard);
                amount_minor *= 5;
            }
            let device = (u64::from(index) << 1) | u64::from(random.random_range(0..4_u8) == 0);
            into.push(self.payment(second, index, terminal, amount_minor, device, scenario));
        }
    }

    /// Scenario 4: 10 to 20 tiny amounts 2 to 400 ms apart, then a large one within five minutes.
    fn burst(&self, index: u32, into: &mut Vec<Transaction>) {
        let customer = &self.world.customers[index as usize];
        let mut random = stream(self.config.seed, Draw::Burst, self.day, index);
        let device = FOREIGN_DEVICE | random.random::<u64>();
        let terminal = self.world.terminal_far(customer, FAR, &mut random);
        let mut at: i64 = random.random_range(0..DAY_MICROS - 600_000_000);
        for _ in 0..random.random_range(10..=20_u8) {
            let tiny = random.random_range(10..=250);
            into.push(self.payment(at, index, terminal, tiny, device, Some(Scenario::CardTesting)));
            at += random.random_range(2_000..400_000);
        }
        at += random.random_range(20_000_000..300_000_000);
        let elsewhere = self.world.terminal_far(customer, FAR, &mut random);
        let large = random.random_range(15_000..60_000);
        into.push(self.payment(at, index, elsewhere, large, device, Some(Scenario::CardTesting)));
    }

    /// Scenario 5: 3 to 8 payments per day far from home, two to five times the customer's mean.
    fn takeover(&self, takeover: Takeover, into: &mut Vec<Transaction>) {
        let index = takeover.customer;
        let customer = &self.world.customers[index as usize];
        let mut thief = stream(self.config.seed, Draw::Takeover, takeover.began, index);
        let device = FOREIGN_DEVICE | thief.random::<u64>();
        let mut random = stream(self.config.seed, Draw::Takeover, self.day, u32::MAX - index);
        for _ in 0..random.random_range(3..=8_u8) {
            let at = random.random_range(0..DAY_MICROS);
            let terminal = self.world.terminal_far(customer, FAR, &mut random);
            let amount = minor(customer.mean * random.random_range(2.0..5.0));
            into.push(self.payment(at, index, terminal, amount, device, Some(Scenario::AccountTakeover)));
        }
    }

    fn payment(
        &self,
        micros_of_day: i64,
        customer: u32,
        terminal: u32,
        amount_minor: i64,
        device: u64,
        scenario: Option<Scenario>,
    ) -> Transaction {
        let (latitude, longitude) = self.world.coordinates(terminal);
        Transaction {
            id: 0,
            time_micros: self.midnight + micros_of_day,
            customer: i64::from(customer),
            terminal: i64::from(terminal),
            amount_minor,
            device,
            latitude,
            longitude,
            scenario,
            reported_micros: None,
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a Poisson number of mean below 4 is small"
)]
fn count(rate: f64, random: &mut ChaCha8Rng) -> u32 {
    Poisson::new(rate).map_or(0, |poisson| poisson.sample(random) as u32)
}

/// Microseconds since midnight, normal around noon; `None` outside the day, where the handbook drops the payment.
#[expect(clippy::cast_possible_truncation, reason = "the guard keeps it within a day")]
fn second_of_day(random: &mut ChaCha8Rng) -> Option<i64> {
    let second = Normal::new(43_200.0, 20_000.0).expect("a positive deviation").sample(random);
    (second > 0.0 && second < 86_400.0).then_some((second * 1e6) as i64)
}

/// Normal around the customer's mean; a negative one is drawn again, uniform up to twice the mean.
fn amount(customer: &Customer, random: &mut ChaCha8Rng) -> i64 {
    let drawn = Normal::new(customer.mean, customer.mean / 2.0).expect("a positive deviation").sample(random);
    minor(if drawn < 0.0 { random.random_range(0.0..2.0 * customer.mean) } else { drawn })
}

#[expect(clippy::cast_possible_truncation, reason = "amounts stay below a million")]
fn minor(major: f64) -> i64 {
    (major * 100.0).round() as i64
}

fn report(chargebacks: &Chargebacks, time: i64, random: &mut ChaCha8Rng) -> Option<i64> {
    let spread = chargebacks.spread_micros.max(0);
    let offset = random.random_range(-spread..=spread);
    let unreported = random.random::<f64>() < chargebacks.unreported;
    let delay = chargebacks.delay_micros.saturating_add(offset).max(REPORT_MICROS_MIN);
    (!unreported).then(|| time.saturating_add(delay))
}
