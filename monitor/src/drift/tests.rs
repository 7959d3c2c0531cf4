use proptest::prelude::*;

use super::ks::{EXACT_CELLS_MAX, ks, one_sample_log10_p};
use super::psi::{chi2_log10_sf, psi};
use super::reference::{Bins, Column, Reference};
use super::verdict::{DriftOptions, holm, judge};
use super::window::Window;
use crate::records::{MODEL, VERSION, feature, record};
use interdict_features::time::Timestamp;
use interdict_features::value::Value;

const NOW: Timestamp = Timestamp::from_micros(0);

#[track_caller]
fn close(got: f64, wanted: f64, relative: f64, absolute: f64) {
    assert!((got - wanted).abs() <= relative * wanted.abs() + absolute, "{got} is not {wanted}");
}

/// (x, degrees of freedom, log10 of the tail). scipy 1.17.1: `chi2.logsf(x, df) / log(10)`; the last three, where
/// scipy has -inf or loses digits, mpmath: `log10(gammainc(df/2, x/2, inf, regularized=True))`. Tolerance 1e-9 relative, 1e-12 absolute.
#[test]
fn chi2_tails_are_scipys() {
    for (x, freedom, wanted) in [
        (0.5, 1.0, -0.319_211_277_825_720_4),
        (3.841_458_820_694_124, 1.0, -1.301_029_995_663_982),
        (11.0, 9.0, -0.559_549_156_534_925_2),
        (200.0, 9.0, -37.479_779_561_186_22),
        (1000.0, 9.0, -208.763_445_578_947_65),
        (2.0, 40.0, -6.894_544_770_152_243e-20),
        (800.0, 2.0, -173.717_792_761_300_73),
        (1300.0, 100.0, -207.208_783_446_046_43),
        (1500.0, 4.0, -322.845_221_490_434_7),
        (10_000.0, 12.0, -2_155.056_306_315_850_7),
        (1_000_000.0, 31.0, -217_076.130_709_498_57),
    ] {
        close(chi2_log10_sf(x, freedom), wanted, 1e-9, 1e-12);
    }
}

/// (distance, N, log10 of the tail). scipy 1.17.1: `log10(kstwo.sf(d, N))`; the one at 0.9, where scipy has -inf, mpmath:
/// twice the Birnbaum-Tingey sum. Tolerance 1e-4 where N d^2 >= 2.2, else 0.01 (2 % of p).
#[test]
fn one_sample_tails_are_scipys() {
    for (distance, rows, wanted) in [
        (0.02, 476.0, -0.004_680_511_082_191_885),
        (0.04, 476.0, -0.376_148_534_157_071_3),
        (0.06, 476.0, -1.205_280_532_345_423_9),
        (0.068, 476.0, -1.631_541_631_992_092_6),
        (0.1, 476.0, -3.869_787_116_404_644_7),
        (0.2, 476.0, -16.437_854_903_706_17),
        (0.5, 476.0, -109.837_633_323_166_86),
        (0.9, 476.0, -475.622_484_568_037_44),
        (0.1, 99.0, -0.588_754_071_861_393_3),
        (0.15, 99.0, -1.682_832_301_409_565_4),
        (0.3, 99.0, -7.671_721_945_458_437),
        (0.03, 5000.0, -3.616_916_832_107_166_5),
        (0.1, 5000.0, -43.252_549_667_753_31),
        (0.34, 20.0, -1.839_826_369_758_246_6),
        (0.6, 10.0, -3.245_523_841_486_319),
    ] {
        let tolerance = if rows * distance * distance >= 2.2 { 1e-4 } else { 0.01 };
        close(one_sample_log10_p(distance, rows), wanted, 0.0, tolerance);
    }
}

/// a = 0, 1, .. n-1; b = k j + s for j of m. scipy 1.17.1: `ks_2samp(a, b, method="exact")`, distance and log10 of p.
/// Tolerance 1e-9.
#[test]
fn exact_tails_are_scipys() {
    for (n, m, k, s, distance, wanted) in [
        (3, 5, 1.0, 0.5, 0.6, -0.333_214_679_035_382_43),
        (10, 10, 1.0, 3.5, 0.4, -0.379_318_916_594_104_05),
        (30, 30, 1.0, 1000.0, 1.0, -16.771_824_703_874_767),
        (20, 50, 0.4, 0.05, 0.05, -2.813_039_652_691_704_4e-12),
        (100, 100, 1.0, 20.5, 0.21, -1.618_780_144_321_210_6),
        (250, 400, 0.625, 30.2, 0.1245, -1.810_382_013_472_189_7),
        (8, 300, 30.0, 500.0, 1.0, -14.962_049_489_366_6),
    ] {
        let a: Vec<f64> = (0..n).map(f64::from).collect();
        let b: Vec<f64> = (0..m).map(|j| f64::from(j) * k + s).collect();
        let got = ks(&a, &b);
        close(got.distance, distance, 0.0, 1e-12);
        close(got.log10_p, wanted, 1e-9, 1e-9);
    }
}

#[test]
fn equal_constant_and_empty_samples_end_and_say_nothing() {
    let many: Vec<f64> = (0..2_000).map(f64::from).collect();
    let constant = vec![4.0; 1_500];
    for (a, b) in [(&many, &many), (&constant, &constant), (&many, &Vec::new()), (&Vec::new(), &Vec::new())] {
        let got = ks(a, b);
        assert_eq!((got.distance.to_bits(), got.log10_p.to_bits()), (0, 0));
    }
    let apart = ks(&constant, &vec![5.0; 10_000]);
    close(apart.distance, 1.0, 0.0, 0.0);
    assert!(apart.log10_p < -1_000.0 && apart.log10_p.is_finite());
}

#[test]
fn bins_are_atoms_intervals_and_null() {
    let mut values: Vec<f64> = vec![0.0; 600];
    values.extend((0..400).map(|i| f64::from(i) / 10.0 + 1.0));
    let bins = Bins::of(&values, 1_000);
    // null, the atom 0, eight intervals of 5 %.
    assert_eq!(bins.count(), 10);
    assert_eq!(bins.of_value(f64::NAN), 0);
    assert_eq!(bins.of_value(0.0), 1);
    assert_eq!(bins.of_value(-3.0), 2);
    assert_eq!(bins.of_value(f64::NEG_INFINITY), 2);
    assert_eq!(bins.of_value(f64::INFINITY), 9);
}

#[test]
fn a_constant_reference_has_a_bin_for_what_it_never_saw() {
    let column = Column::new("c".into(), vec![Some(7.0); 100].into_iter());
    assert_eq!(column.counts, [0, 100, 0]);
    assert_eq!(column.bins.of_value(8.0), 2);
    let nothing = Column::new("n".into(), vec![None; 100].into_iter());
    assert_eq!(nothing.counts, [100, 0]);
}

#[test]
fn holm_steps_down() {
    let log10_p = [0.011_f64, 0.02, 0.04, 0.005].map(f64::log10);
    assert_eq!(holm(&log10_p, 0.05), [true, true, true, true]);
    assert_eq!(holm(&log10_p, 0.03), [false, false, false, true]);
    assert_eq!(holm(&[], 0.05), Vec::<bool>::new());
}

/// A reference of one column, and a window of records that hold `current` in it.
fn compare(reference: Vec<Option<f64>>, current: &[Option<f64>]) -> Option<super::verdict::Batch> {
    let reference = Reference::from_columns(MODEL, VERSION, vec![("g__f_1d".into(), reference)]);
    let mut window = window_of(&reference, current);
    judge(&reference, &mut window, &DriftOptions::default())
}

fn window_of(reference: &Reference, current: &[Option<f64>]) -> Window {
    let mut window = Window::new(reference, current.len());
    let mut one = record(0);
    for (position, value) in (0..).zip(current) {
        one.features = vec![feature("other", Value::Null), feature("g.f_1d", value.map_or(Value::Null, Value::Double))];
        window.add(reference, position, &one, NOW);
    }
    window
}

#[test]
fn a_new_share_of_null_is_a_drift() {
    let reference = (0..10_000).map(|i| Some(f64::from(i))).collect();
    let current: Vec<_> = (0..500).map(|i| (i % 10 != 0).then(|| f64::from(i * 20))).collect();
    let batch = compare(reference, &current).unwrap();
    let column = &batch.columns[0];
    assert_eq!(column.drifted_by, Some(super::verdict::Test::Psi));
    close(column.null_ratio, 0.1, 0.0, 1e-12);
    close(column.ks.distance, 0.0, 0.0, 0.02);
}

#[test]
fn columns_are_found_among_features_and_event() {
    let names = ["customer_spend__tx_count_7d", "is_weekend", "amount", "score", "nowhere"];
    let columns = names.iter().map(|name| ((*name).to_owned(), vec![Some(0.0), Some(1.0)])).collect();
    let reference = Reference::from_columns(MODEL, VERSION, columns);
    let mut window = Window::new(&reference, 2);
    // The second record has its features in another order.
    let mut second = record(4);
    second.features.reverse();
    window.add(&reference, 0, &record(4), NOW);
    window.add(&reference, 1, &second, NOW);
    let values: Vec<_> = window.samples.iter().map(|sample| sample.values.clone()).collect();
    let both = |value: f64| vec![value, value];
    assert_eq!(values, [both(4.0), both(1.0), both(4.0 / 3.0), both(record(4).score.unwrap()), vec![]]);
}

/// Anything a reference or a window may hold, with ties, atoms and extremes among it.
fn cells() -> impl Strategy<Value = Vec<Option<f64>>> {
    let value = prop_oneof![
        3 => (-3_i32..3).prop_map(|i| Some(f64::from(i))),
        3 => (-1e3..1e3).prop_map(Some),
        1 => prop::num::f64::ANY.prop_map(Some),
        1 => Just(None),
        1 => Just(Some(-0.0)),
    ];
    prop::collection::vec(value, 0..400)
}

fn sorted(values: &[Option<f64>]) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().flatten().copied().filter(|value| !value.is_nan()).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

/// The largest distance by definition: at every value of both.
#[expect(clippy::cast_precision_loss, reason = "short samples")]
fn naive_distance(a: &[f64], b: &[f64]) -> f64 {
    let share = |values: &[f64], x: f64| values.iter().filter(|v| **v <= x).count() as f64 / values.len() as f64;
    a.iter().chain(b).map(|x| (share(a, *x) - share(b, *x)).abs()).fold(0.0, f64::max)
}

proptest! {
    #[test]
    fn every_statistic_is_finite(reference in cells(), current in cells()) {
        if let Some(batch) = compare(reference, &current) {
            let column = &batch.columns[0];
            for value in [column.psi.value, column.psi.excess, column.ks.distance, column.null_ratio, column.reference_null_ratio] {
                prop_assert!(value.is_finite() && value >= 0.0, "{column:?}");
            }
            for log10_p in [column.psi.log10_p, column.ks.log10_p] {
                prop_assert!(log10_p.is_finite() && log10_p <= 0.0, "{column:?}");
            }
            prop_assert!(column.ks.distance <= 1.0 && column.ks_threshold.is_finite());
        }
    }

    #[test]
    fn ks_is_symmetric_and_the_naive_distance(a in cells(), b in cells()) {
        let (a, b) = (sorted(&a), sorted(&b));
        let (forth, back) = (ks(&a, &b), ks(&b, &a));
        prop_assert_eq!(forth, back);
        if !a.is_empty() && !b.is_empty() {
            prop_assert!((forth.distance - naive_distance(&a, &b)).abs() < 1e-12);
        }
    }

    #[test]
    fn ks_knows_no_scale(a in cells(), b in cells()) {
        let scaled = |values: &[Option<f64>]| {
            let finite = values.iter().map(|value| value.filter(|v| v.abs() < 1e100 && (*v == 0.0 || v.abs() > 1e-100)));
            let kept: Vec<_> = finite.collect();
            let eight: Vec<_> = kept.iter().map(|value| value.map(|v| v * 8.0)).collect();
            (sorted(&kept), sorted(&eight))
        };
        let ((a, a8), (b, b8)) = (scaled(&a), scaled(&b));
        prop_assert_eq!(ks(&a, &b), ks(&a8, &b8));
    }

    #[test]
    fn psi_is_symmetric_and_finite(
        counts in prop::collection::vec((0..u64::from(u32::MAX), 0..50_u64), 0..40)
    ) {
        let (a, b): (Vec<_>, Vec<_>) = counts.into_iter().unzip();
        let (forth, back) = (psi(&a, &b), psi(&b, &a));
        prop_assert!((forth.value - back.value).abs() <= 1e-12 * (1.0 + forth.value.abs()));
        prop_assert!(forth.value.is_finite() && forth.log10_p.is_finite() && forth.log10_p <= 0.0);
        prop_assert_eq!(psi(&a, &a).value.to_bits(), 0);
    }

    #[test]
    fn chi2_tails_are_finite(x in prop::num::f64::ANY, freedom in 1..3_000_u32) {
        let log10_p = chi2_log10_sf(x, f64::from(freedom));
        prop_assert!(log10_p.is_finite() && log10_p <= 0.0);
    }

    #[test]
    fn order_and_merging_change_nothing(reference in cells(), current in cells(), cut in 0..400_usize) {
        let reference = Reference::from_columns(MODEL, VERSION, vec![("g__f_1d".into(), reference)]);
        let options = DriftOptions::default();
        let (left, right) = current.split_at(cut.min(current.len()));
        let mut merged = window_of(&reference, right);
        merged.merge(&window_of(&reference, left));
        let mut whole = window_of(&reference, &current);
        let columns = |window: &mut Window| judge(&reference, window, &options).map(|batch| batch.columns);
        prop_assert_eq!(columns(&mut merged), columns(&mut whole));
    }
}

/// Just under and just over the bound of the exact tail the two ways agree: to 10 % of log10 p.
#[test]
fn exact_and_asymptotic_tails_meet() {
    let a: Vec<f64> = (0..100).map(f64::from).collect();
    for shift in [15.3, 25.3, 40.3] {
        let b = |m: i32| -> Vec<f64> { (0..m).map(|j| f64::from(j) * 100.0 / f64::from(m) + shift).collect() };
        let (exact, asymptotic) = (ks(&a, &b(1_000)), ks(&a, &b(1_001)));
        const { assert!(100 * 1_000 <= EXACT_CELLS_MAX && 100 * 1_001 > EXACT_CELLS_MAX) };
        close(asymptotic.log10_p, exact.log10_p, 0.1, 0.02);
    }
}
