use std::sync::Arc;
use std::time::Instant;
use interdict_features::change::*;
use interdict_features::definition::*;
use interdict_features::engine::*;
use interdict_features::expression::Type;
use interdict_features::time::Span;
use interdict_features::value::ColumnType;

pub fn handbook(append_only: bool, label: bool) -> Definitions {
    let col = |n: &str, kind| Column { name: n.into(), kind, sensitive: false };
    let mut stream = Stream::plain("transactions");
    stream.columns = vec![col("transaction_id", ColumnType::Int), col("tx_datetime", ColumnType::Timestamp), col("customer_id", ColumnType::Int), col("terminal_id", ColumnType::Int), col("amount", ColumnType::Decimal { scale: 2 }), col("is_fraud", ColumnType::Bool)];
    stream.time = Some(1); stream.partition_by = Some(2); stream.label = label.then_some(5); stream.append_only = append_only; stream.judge = Some(Judge::Insert);
    let w = |d: &[i64]| d.iter().map(|d| Span::from_micros(d * Span::DAY.micros())).collect::<Vec<_>>();
    let f = |name: &str, aggregation| WindowedFeature { name: name.into(), aggregation, default: None };
    let groups = vec![
        Group { name: "customer_spend".into(), entity: 0, stream: 0, key: vec![2], filter: None, hash: 1, first_feature: 0,
            kind: GroupKind::Windowed { windows: w(&[1, 7, 30]), delay: Span::ZERO, features: vec![f("tx_count", Aggregation::Count), f("amount_avg", Aggregation::Mean(Operand::Column(4)))] } },
        Group { name: "terminal_risk".into(), entity: 1, stream: 0, key: vec![3], filter: None, hash: 2, first_feature: 6,
            kind: GroupKind::Windowed { windows: w(&[1, 7, 30]), delay: Span::from_micros(7 * Span::DAY.micros()), features: vec![f("tx_count", Aggregation::Count), f("fraud_ratio", Aggregation::ShareLabel)] } },
    ];
    let mut features = vec![];
    for (g, fs) in [("customer_spend", ["tx_count", "amount_avg"]), ("terminal_risk", ["tx_count", "fraud_ratio"])] {
        for x in fs { for d in ["1d", "7d", "30d"] { features.push(FeatureName { name: format!("{g}.{x}_{d}").into(), kind: Type::Double }); } }
    }
    Definitions { streams: vec![Arc::new(stream)], entities: vec![Entity { name: "customer".into(), key: vec!["customer_id".into()] }, Entity { name: "terminal".into(), key: vec!["terminal_id".into()] }], groups, derived: vec![], features, disorder: Span::SECOND, slack: Span::HOUR, future_max: Span::HOUR }
}

fn main() {
    let n: usize = std::env::args().nth(1).map_or(2_000_000, |s| s.parse().unwrap());
    let shards: usize = std::env::args().nth(2).map_or(2, |s| s.parse().unwrap());
    let append: bool = std::env::args().nth(3).is_none_or(|s| s == "append");
    let defs = Arc::new(handbook(append, true));
    let plan = Arc::new(Plan::compile(defs.clone()));
    // 5000 customers, 10000 terminals, like the handbook: 2 per customer and day
    let mut seed = 42_u64;
    let mut rnd = || { seed ^= seed << 13; seed ^= seed >> 7; seed ^= seed << 17; seed };
    let mut batches = vec![];
    let size = 4096;
    let step = 86_400_000_000 / 9_600;
    let mut t = 1_522_540_800_000_000_i64;
    let mut id = 0;
    while id < n {
        let mut b = ChangeBatch::new(defs.streams[0].clone(), 0);
        for _ in 0..size.min(n - id) {
            id += 1;
            t += step / 1_000_000 * 1_000_000 + (rnd() % 2) as i64 * 1_000_000;
            let mut w = b.begin();
            w.set_cell(0, id as i64); w.set_cell(1, t); w.set_cell(2, (rnd() % 5000) as i64); w.set_cell(3, (rnd() % 10000) as i64); w.set_cell(4, (rnd() % 20000) as i64); w.set_cell(5, (rnd() % 100 == 0) as i64);
            w.finish(Change { op: Op::Insert, version: Version::new(id as u64), arrival: None, position: id as u64 });
        }
        batches.push(b);
    }
    for round in 0..3 {
        let mut engine = Engine::new(plan.clone(), shards);
        let mut out = Output::default();
        let mut check = 0.0;
        let start = Instant::now();
        for b in &batches {
            engine.process(b, Evaluate::Everything, &mut out).unwrap();
            check += out.vector(0)[2].number().unwrap_or(0.0);
        }
        let s = start.elapsed().as_secs_f64();
        println!("round {round}: {:.0} events/s, {} keys, {:.0} MB, check {check}", n as f64 / s, engine.keys(), engine.memory_bytes() as f64 / 1e6);
    }
}
