#![expect(clippy::cast_precision_loss, reason = "counts of tests are small")]

use std::collections::HashMap;

use super::*;

fn drawn(config: Config) -> Vec<Transaction> {
    Generator::new(config).collect()
}

fn small(seed: u64, days: u32) -> Config {
    Config { seed, customers: 1_000, terminals: 2_000, radius: 8.0, length: Length::Days(days), ..Config::default() }
}

/// FNV-1a over what identifies a transaction: stable across versions of the standard library.
fn fingerprint(transactions: &[Transaction]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for transaction in transactions {
        let scenario = transaction.scenario.map_or(0, Scenario::number);
        let numbers = [
            transaction.id,
            transaction.time_micros,
            transaction.customer,
            transaction.terminal,
            transaction.amount_minor,
            i64::from(scenario),
            transaction.reported_micros.unwrap_or(0),
        ];
        for byte in numbers.iter().flat_map(|number| number.to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

#[test]
fn the_same_seed_gives_the_same_output_on_any_number_of_threads() {
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let many = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
    let config = Config { customers: 3_000, length: Length::Days(5), ..Config::default() };
    let one = alone.install(|| drawn(config.clone()));
    let five = many.install(|| drawn(config.clone()));
    assert_eq!(one, five);
    assert_ne!(fingerprint(&one), fingerprint(&drawn(Config { seed: 1, ..config })));
}

#[test]
fn the_output_of_a_seed_stays_what_it_was() {
    assert_eq!(fingerprint(&drawn(small(7, 20))), 14_168_887_835_744_078_455);
}

#[test]
fn ids_ascend_without_gaps_in_order_of_time() {
    let transactions = drawn(Config { first_id: 500, ..small(1, 10) });
    assert!(transactions.windows(2).all(|pair| pair[0].time_micros <= pair[1].time_micros));
    assert!((500..).zip(&transactions).all(|(id, transaction)| transaction.id == id));
    let end = HANDBOOK_START_MICROS + 10 * DAY_MICROS;
    assert!(transactions.iter().all(|transaction| (HANDBOOK_START_MICROS..end).contains(&transaction.time_micros)));
}

#[test]
fn a_number_of_transactions_is_met_exactly_and_is_a_prefix_of_more() {
    let of = |count| drawn(Config { length: Length::Transactions(count), ..small(3, 0) });
    let many = of(10_000);
    for count in [0, 1, 1_999, 9_999] {
        let fewer = of(count);
        assert_eq!(fewer.len() as u64, count);
        assert_eq!(fewer[..], many[..fewer.len()]);
    }
}

#[test]
fn rates_and_amounts_follow_the_method() {
    let genuine = FraudRates { amount_max_minor: None, terminals: 0.0, customers: 0.0, bursts: 0.0, takeovers: 0.0 };
    let transactions = drawn(Config { fraud: genuine, ..small(5, 60) });
    assert!(transactions.iter().all(|transaction| !transaction.is_fraud()));
    // 1,000 customers, 60 days, a mean of 2 per day (deviation of the population's mean 0.0365), 96.9 % within the day.
    let per_customer_and_day = transactions.len() as f64 / 60_000.0;
    assert!((per_customer_and_day - 1.938).abs() < 0.13, "{per_customer_and_day}");

    let mut by_customer: HashMap<i64, Vec<f64>> = HashMap::new();
    for transaction in &transactions {
        by_customer.entry(transaction.customer).or_default().push(transaction.amount_minor as f64 / 100.0);
        let second = (transaction.time_micros - HANDBOOK_START_MICROS) % DAY_MICROS;
        assert!((0..DAY_MICROS).contains(&second));
        assert!(transaction.amount_minor >= 0);
    }
    let (mut ratios, mut means) = (Vec::new(), Vec::new());
    for amounts in by_customer.values().filter(|amounts| amounts.len() > 100) {
        let mean = amounts.iter().sum::<f64>() / amounts.len() as f64;
        let variance = amounts.iter().map(|amount| (amount - mean).powi(2)).sum::<f64>() / amounts.len() as f64;
        means.push(mean);
        ratios.push(variance.sqrt() / mean);
    }
    let average = |numbers: &[f64]| numbers.iter().sum::<f64>() / numbers.len() as f64;
    assert!((average(&means) - 53.5).abs() < 4.0, "means {}", average(&means));
    assert!((average(&ratios) - 0.47).abs() < 0.03, "deviation over mean {}", average(&ratios));
    let noon = transactions.iter().filter(|t| (t.time_micros % DAY_MICROS - DAY_MICROS / 2).abs() < 20_000_000_000);
    let share = noon.count() as f64 / transactions.len() as f64;
    assert!((share - 0.6827 / 0.969).abs() < 0.01, "within one deviation of noon {share}");
}

#[test]
fn customers_pay_within_their_radius_or_at_the_nearest_terminal() {
    let config = small(2, 3);
    let world = World::draw(&config);
    let place = |terminal: i64| world.coordinates(u32::try_from(terminal).unwrap());
    let units = |a: (f64, f64), customer: &world::Customer| {
        (((a.0 - 45.0) / 0.02 - customer.y).powi(2) + ((a.1 - 5.0) / 0.028 - customer.x).powi(2)).sqrt()
    };
    let mut visited: HashMap<i64, Vec<i64>> = HashMap::new();
    for transaction in drawn(config.clone()) {
        let customer = &world.customers[usize::try_from(transaction.customer).unwrap()];
        let away = units(place(transaction.terminal), customer);
        match transaction.scenario {
            Some(Scenario::CardTesting | Scenario::AccountTakeover) => assert!(away > 39.9, "{away}"),
            _ => assert!(away <= 8.0 + 1e-6, "{away}"),
        }
        visited.entry(transaction.customer).or_default().push(transaction.terminal);
    }

    let lonely = Config { terminals: 3, radius: 0.001, ..config };
    let world = World::draw(&lonely);
    let genuine = drawn(lonely).into_iter().filter(|transaction| !transaction.is_fraud());
    for transaction in genuine {
        let customer = &world.customers[usize::try_from(transaction.customer).unwrap()];
        let nearest = (0..3)
            .min_by(|a, b| units(world.coordinates(*a), customer).total_cmp(&units(world.coordinates(*b), customer)));
        assert_eq!(Some(transaction.terminal), nearest.map(i64::from));
    }
}

#[test]
fn a_population_of_one_and_a_radius_over_everything_work() {
    let one = Config { customers: 1, terminals: 1, radius: 1_000.0, length: Length::Transactions(50), ..small(9, 0) };
    assert_eq!(drawn(one).len(), 50);
    let none = Config { customers: 0, terminals: 0, radius: 0.0, length: Length::Transactions(5), ..small(9, 0) };
    assert_eq!(drawn(none).len(), 5);
}

#[test]
fn every_scenario_shows_its_signature() {
    let transactions = drawn(small(11, 60));
    let of = |scenario| transactions.iter().filter(move |transaction| transaction.scenario == Some(scenario));
    for scenario in Scenario::ALL {
        assert!(of(scenario).count() > 20, "{} {}", scenario.name(), of(scenario).count());
    }
    assert!(of(Scenario::LargeAmount).all(|transaction| transaction.amount_minor > 22_000));
    let missed = transactions.iter().filter(|t| t.scenario.is_none() && t.amount_minor > 22_000);
    assert_eq!(missed.count(), 0);

    let mut spans: HashMap<i64, (i64, i64)> = HashMap::new();
    for transaction in of(Scenario::CompromisedTerminal) {
        let day = (transaction.time_micros - HANDBOOK_START_MICROS) / DAY_MICROS;
        let span = spans.entry(transaction.terminal).or_insert((day, day));
        span.1 = day;
    }
    assert!(spans.values().all(|(first, last)| last - first < 56), "two compromises in a row at most");

    let leaked: Vec<_> = of(Scenario::LeakedCard).collect();
    let mean = |amounts: Vec<i64>| amounts.iter().sum::<i64>() as f64 / amounts.len() as f64;
    let all = mean(transactions.iter().filter(|t| !t.is_fraud()).map(|t| t.amount_minor).collect());
    let multiplied = mean(leaked.iter().map(|t| t.amount_minor).collect());
    assert!((3.0..8.0).contains(&(multiplied / all)), "{}", multiplied / all);
    assert!(leaked.iter().all(|t| t.amount_minor % 5 == 0));

    let homes: HashMap<i64, Vec<u64>> =
        transactions.iter().filter(|t| !t.is_fraud()).fold(HashMap::new(), |mut homes, t| {
            homes.entry(t.customer).or_insert_with(Vec::new).push(t.device);
            homes
        });
    for transaction in of(Scenario::AccountTakeover) {
        assert!(!homes.get(&transaction.customer).is_some_and(|devices| devices.contains(&transaction.device)));
    }
}

#[test]
fn card_tests_come_in_bursts_with_a_large_amount_at_the_end() {
    let transactions = drawn(small(13, 60));
    let mut bursts: HashMap<u64, Vec<&Transaction>> = HashMap::new();
    for transaction in transactions.iter().filter(|t| t.scenario == Some(Scenario::CardTesting)) {
        bursts.entry(transaction.device).or_default().push(transaction);
    }
    assert!(!bursts.is_empty());
    for burst in bursts.values() {
        let (last, tiny) = burst.split_last().unwrap();
        assert!(tiny.len() >= 10);
        assert!(tiny.iter().all(|t| t.amount_minor <= 250 && t.customer == last.customer));
        assert!(tiny.windows(2).all(|pair| pair[1].time_micros - pair[0].time_micros < 400_000));
        assert!(last.amount_minor >= 15_000);
        assert!(last.time_micros - tiny[0].time_micros < 310_000_000);
    }
}

#[test]
fn reports_are_late_and_some_never_come() {
    let chargebacks = Chargebacks { delay_micros: 7 * DAY_MICROS, spread_micros: 2 * DAY_MICROS, unreported: 0.25 };
    let transactions = drawn(Config { chargebacks, ..small(17, 60) });
    assert!(transactions.iter().all(|t| t.is_fraud() || t.reported_micros.is_none()));
    let frauds: Vec<_> = transactions.iter().filter(|t| t.is_fraud()).collect();
    let delays: Vec<i64> = frauds.iter().filter_map(|t| Some(t.reported_micros? - t.time_micros)).collect();
    assert!(delays.iter().all(|delay| (5 * DAY_MICROS..=9 * DAY_MICROS).contains(delay)));
    let reported = delays.len() as f64 / frauds.len() as f64;
    assert!((reported - 0.75).abs() < 0.06, "{reported}");
    let mean = delays.iter().sum::<i64>() as f64 / delays.len() as f64 / DAY_MICROS as f64;
    assert!((mean - 7.0).abs() < 0.2, "{mean}");
}

#[test]
fn time_ends_with_the_year_9999() {
    let start_micros = TIME_MICROS_MAX - 3 * DAY_MICROS;
    let transactions = drawn(Config { start_micros, length: Length::Days(10), ..small(1, 0) });
    assert!(!transactions.is_empty());
    assert!(transactions.iter().all(|t| t.time_micros <= TIME_MICROS_MAX));
}

#[test]
fn the_expected_number_is_near_the_drawn_one() {
    let generator = Generator::new(small(1, 30));
    let expected = generator.expected() as f64;
    let drawn = generator.count() as f64;
    assert!((drawn / expected - 1.0).abs() < 0.05, "{drawn} of {expected}");
}

#[test]
fn a_start_within_a_day_cuts_that_day_and_keeps_its_hours() {
    let start_micros = HANDBOOK_START_MICROS + DAY_MICROS / 2;
    let whole = drawn(small(1, 2));
    let cut = drawn(Config { start_micros, ..small(1, 2) });
    let rest: Vec<_> = whole.into_iter().filter(|t| t.time_micros >= start_micros).collect();
    assert!(cut.iter().map(|t| t.time_micros).eq(rest.iter().map(|t| t.time_micros)));
    assert!((0..).zip(&cut).all(|(id, transaction)| transaction.id == id));
}
