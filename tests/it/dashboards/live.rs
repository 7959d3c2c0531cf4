//! A running program over a real PostgreSQL, a real Redis and topics of Kafka's mock cluster, scraped by a real Prometheus: every metric
//! that a panel or a rule names is there, every query is valid and shows what happened, and nothing is exported that nobody looks at.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use interdict_monitor::alert::signature::{Secret, signature};
use serde_json::Value;

use super::prometheus::{Prometheus, free_address};
use super::{configured, dashboards, metrics, promtool, queries, rules};
use crate::compose;
use crate::kafka::Kafka;
use crate::place::{Caller, Place, Process, text};
use crate::postgres_server::PostgresServer;
use crate::redis_server::RedisServer;
use crate::webhook::{Received, receive};

/// Exported and looked at by nobody, with the reason.
const UNUSED: [(&str, &str); 0] = [];

/// What Grafana puts in place of its own variables when everything is chosen.
const VARIABLES: [(&str, &str); 5] =
    [("$__rate_interval", "1m"), ("$__range", "5m"), ("$namespace", ".*"), ("$job", ".*"), ("$instance", ".*")];

fn substituted(expression: &str) -> String {
    let mut expression = expression.to_owned();
    for (variable, value) in VARIABLES {
        expression = expression.replace(variable, value);
    }
    assert!(!expression.contains('$'), "{expression}: an unknown variable");
    expression
}

/// The stack of docker-compose.yml with one process of each role, and sinks: its configuration, with the addresses of this machine.
struct Stack {
    place: Place,
    postgres: PostgresServer,
    _redis: RedisServer,
    /// Ingestor, scorer, monitor; of a system beside them a republisher, and an ingestor of its topic.
    processes: [Process; 5],
    addresses: [String; 5],
    _kafka: Kafka,
    /// What the monitor's webhook was told.
    alerts: Receiver<Received>,
}

impl Stack {
    fn start() -> Self {
        let place = compose::laid_out();
        let postgres = PostgresServer::start(&[]);
        postgres.database("bank");
        postgres.sql("bank", &text(&crate::program::root().join("examples/postgres/schema.sql")));
        prepare(&place, &postgres);
        let redis = RedisServer::start();
        assert_eq!(
            redis.say(&["CONFIG", "SET", "requirepass", text(&place.path("compose/secrets/redis_password")).trim()]),
            "OK"
        );
        simulate(&place, &postgres, &["--days", "4"]);
        let (receiver, alerts) = receive([]);
        let config = text(&place.path("compose/interdict.toml"));
        let kafka = Kafka::start();
        let config = [
            // The program as it is built by default knows no Fluvio.
            (
                "type = \"fluvio\"\nendpoint = \"fluvio-sc:9003\"",
                format!("type = \"kafka\"\nbrokers = \"{}\"", kafka.brokers()),
            ),
            ("postgres:5432", format!("localhost:{}", postgres.port)),
            ("redis://redis:6379", redis.url()),
            ("0.0.0.0:8080", "127.0.0.1:0".to_owned()),
            ("http://receiver:8090", format!("http://127.0.0.1:{receiver}")),
            ("/var/lib/interdict", place.path("").display().to_string()),
            ("file_age = \"10s\"", "file_age = \"500ms\"".to_owned()),
            ("drift_rows = 2000 ", "batch_rows = 100\ndrift_rows = 100 ".to_owned()),
            ("drift_rows_min = 500", "drift_rows_min = 50".to_owned()),
        ]
        .into_iter()
        .fold(config, |config, (from, to)| {
            assert!(config.contains(from), "{from} is not in the example");
            config.replace(from, &to)
        });
        for (topic, partitions) in [("changes", 2), ("decisions", 1), ("dead_letters", 1)] {
            kafka.create(topic, partitions);
        }
        place.write("compose/republish.toml", republished(&config, &kafka));
        place.write("compose/interdict.toml", config + &letters(&kafka));
        let start = |role: &str| place.start(&format!("run --config compose/interdict.toml --role {role}"));
        let [ingestor, scorer, monitor] = ["ingest", "scorer", "monitor"].map(start);
        let beside = |role: &str| place.start(&format!("run --config compose/republish.toml --role {role}"));
        let [republisher, reader] = ["republish", "ingest"].map(beside);
        let mut processes = [ingestor, scorer, monitor, republisher, reader];
        let addresses = processes.each_mut().map(Process::address);
        processes[0].wait_for("the snapshot is read");
        processes[3].wait_for("the snapshot is read");
        Self { place, postgres, _redis: redis, processes, addresses, _kafka: kafka, alerts }
    }

    /// Payments of days that follow, among them what is worth a look: blocks, a dead letter, a late one, a repeated one.
    fn live(&self, day: u32) {
        simulate(&self.place, &self.postgres, &["--from-day", &day.to_string(), "--days", &(day + 3).to_string()]);
        let id = 900_000_000 + day * 1_000;
        let newest = "(SELECT max(tx_datetime) FROM transactions)";
        self.postgres.sql(
            "bank",
            &format!(
                "INSERT INTO transactions SELECT {id} + n, {newest}, n, 7, 4000 FROM generate_series({day} * 5, {day} * 5 + 4) n;
                 INSERT INTO transactions VALUES ({id} + 100, {newest}, 10, 7, 'NaN');
                 INSERT INTO transactions VALUES ({id} + 101, {newest} - interval '2 hours', 11, 7, 5);"
            ),
        );
        let caller = Caller::new(&self.addresses[1]);
        let key = text(&self.place.path("compose/secrets/admin_key"));
        let (status, answer) =
            caller.send("GET", "/v1/blocks", &[("authorization", &format!("Bearer {}", key.trim()))], &Value::Null);
        assert_eq!(status, 200, "{answer}");
        assert_eq!(caller.get("/v1/blocks").0, 401, "without a key");
    }

    /// The monitor's first alert came, once, and its signature is that of the secret.
    #[expect(clippy::disallowed_methods, reason = "the time of delivery is real")]
    fn was_told_of_drift(&self) {
        let alert = self.alerts.recv_timeout(Duration::from_secs(60)).expect("an alert");
        let secret = Secret::parse(&text(&self.place.path("compose/secrets/webhook_secret"))).unwrap();
        let delivered: i64 = alert.timestamp.parse().unwrap();
        assert_eq!(alert.signature, signature(&[secret], &alert.id, delivered, &alert.body));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(now.abs_diff(delivered.unsigned_abs()) < 600, "{alert:?}");
        let event: Value = serde_json::from_str(&alert.body).unwrap();
        assert_eq!(event["type"], "com.interdict.drift.firing", "{event}");
        assert_eq!(event["id"], *alert.id, "{event}");
        assert!(!event["data"]["columns"].as_array().unwrap().is_empty(), "{event}");
        let again = self.alerts.try_iter().filter(|other| other.id == alert.id);
        assert_eq!(again.count(), 0, "it was taken at once");
    }

    /// A Prometheus on the shipped configuration, with one process for each role.
    fn watch(&self) -> Prometheus {
        let own = free_address();
        let key = self.place.path("compose/secrets/metrics_key").display().to_string();
        let rules = crate::program::root().join("dashboards/prometheus/rules").display().to_string();
        let replaced = [
            ("scrape_interval: 5s", "scrape_interval: 250ms"),
            ("scrape_timeout: 4s", "scrape_timeout: 250ms"),
            ("evaluation_interval: 5s", "evaluation_interval: 250ms"),
            ("/run/secrets/metrics_key", &key),
            ("\"ingest-1:8080\", \"ingest-2:8080\"", &format!("\"{}\", \"{}\"", self.addresses[0], self.addresses[4])),
            ("targets: []", &format!("targets: [\"{}\"]", self.addresses[3])),
            ("\"scorer-1:8080\", \"scorer-2:8080\"", &self.addresses[1]),
            ("\"monitor:8080\"", &self.addresses[2]),
            ("localhost:9090", &own),
            ("rules/*.yml", &format!("{rules}/*.yml")),
        ];
        let config = configured(&self.place.path(""), &replaced);
        promtool(&["check", "config", &config.display().to_string()]);
        Prometheus::start(&config, &own)
    }
}

/// A topic for dead letters, beside that of decisions.
fn letters(kafka: &Kafka) -> String {
    format!(
        "\n[[sink]]\nname = \"dead_letters\"\nwhat = \"dead_letters\"\ntype = \"kafka\"\nbrokers = \"{}\"\ntopic = \"dead_letters\"\n",
        kafka.brokers()
    )
}

/// The same for a system that shares its database through a topic.
fn republished(config: &str, kafka: &Kafka) -> String {
    let tables = config.lines().find(|line| line.starts_with("tables = ")).unwrap();
    let topic = format!(
        "{tables}\nslot = \"republished\"\n[source.republish]\ntype = \"kafka\"\nbrokers = \"{}\"\ntopic = \"changes\"\nsession = \"3s\"",
        kafka.brokers()
    );
    let replaced =
        [(tables, &*topic), ("namespace = \"bank\"", "namespace = \"shared\""), ("/archive\"", "/shared-archive\"")];
    replaced.into_iter().fold(config.to_owned(), |config, (from, to)| {
        assert!(config.contains(from), "{from} is not in the example");
        config.replace(from, to)
    })
}

/// Runs what the database's image runs at its first start.
fn prepare(place: &Place, postgres: &PostgresServer) {
    let done = Command::new("sh")
        .arg(place.path("compose/database.sh"))
        .envs([("POSTGRES_USER", "postgres"), ("POSTGRES_DB", "bank"), ("PGHOST", "localhost")])
        .env("PGPORT", postgres.port.to_string())
        .env("INTERDICT_PASSWORD_FILE", place.path("compose/secrets/interdict_password"))
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn simulate(place: &Place, postgres: &PostgresServer, options: &[&str]) {
    let to = format!("postgres://postgres@localhost:{}/bank", postgres.port);
    let all = "simulate --create --customers 100 --terminals 200 --seed 7 --label-as stream --label-delay 1d --to";
    let mut command = place.command(all);
    let done = command.arg(to).args(options).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn every_metric_is_exported_and_every_query_shows_what_happened() {
    let stack = Stack::start();
    let prometheus = stack.watch();
    // What begins with its first event shows a rise only from its second scrape on.
    stack.live(4);
    prometheus.wait_for("interdict_scorer_commit_to_block_seconds_count > 0 and on (namespace) interdict_monitor_drift_batches_total > 0");
    stack.live(7);
    prometheus
        .wait_for("interdict_ingest_late_events_total > 1 and on (namespace) interdict_monitor_log_files_total > 1");
    prometheus.wait_for("increase(interdict_ingest_archive_rows_total[1m]) > 0");
    prometheus.wait_for("increase(interdict_ingest_republish_records_total[1m]) > 0");
    prometheus.wait_for("sum(increase(interdict_ingest_topic_records_total[1m])) > 0");
    prometheus.wait_for("sum(increase(interdict_ingest_sink_records_total{sink=\"dead_letters\"}[1m])) > 0");
    prometheus.wait_for("sum(increase(interdict_ingest_sink_records_total{sink=\"decisions\"}[1m])) > 0");
    prometheus.wait_for("sum by (job) (increase(interdict_scorer_commit_to_block_seconds_count[1m])) > 3");
    prometheus.wait_for("namespace:interdict_scorer_commit_to_block_seconds:p99_5m");
    let up = prometheus.now("up{job=~\"interdict-.+\",namespace=\"bank\"} == 1");
    assert_eq!(up.len(), 5, "every role is scraped, with its key: {up:?}");

    let names: BTreeSet<String> = prometheus.names().into_iter().collect();
    let mut used = BTreeSet::new();
    for query in queries() {
        let place = format!("{}/{}", query.dashboard, query.panel);
        for metric in metrics(&query.expression) {
            assert!(names.contains(&metric), "{place}: nobody exports {metric}");
            used.insert(metric);
        }
        let shown = prometheus.now(&substituted(&query.expression));
        assert!(!shown.is_empty(), "{place} is empty: {}", query.expression);
        assert!(shown.iter().any(|series| series["value"][1] != "NaN"), "{place}: {shown:?}");
    }
    for rule in rules("recording.yml").iter().chain(&rules("alerts.yml")) {
        let expression = rule["expr"].as_str().unwrap();
        for metric in metrics(expression) {
            assert!(names.contains(&metric), "{expression}: nobody exports {metric}");
            used.insert(metric);
        }
    }
    every_rule_is_evaluated(&prometheus);
    every_variable_has_values(&prometheus);
    nobody_is_overlooked(&names, &used);
    stack.was_told_of_drift();
    stack.processes.iter().for_each(Process::terminate);
    for process in stack.processes {
        let (status, log) = process.end();
        assert!(status.success(), "{log}");
    }
}

fn every_rule_is_evaluated(prometheus: &Prometheus) {
    let groups = prometheus.ask("/api/v1/rules", &[])["groups"].clone();
    for group in groups.as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            assert_eq!(rule["health"], "ok", "{rule}");
        }
    }
}

/// The lists to choose from, and the annotations.
fn every_variable_has_values(prometheus: &Prometheus) {
    for (name, dashboard) in dashboards() {
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            let asked = variable["query"]["query"].as_str().unwrap();
            assert_eq!(asked, variable["definition"].as_str().unwrap(), "{name}");
            let asked = asked.strip_prefix("label_values(").and_then(|asked| asked.strip_suffix(')')).unwrap();
            let (series, label) = asked.rsplit_once(", ").unwrap();
            let values = prometheus.ask(&format!("/api/v1/label/{label}/values"), &[("match[]", &substituted(series))]);
            assert!(!values.as_array().unwrap().is_empty(), "{name}: {asked}");
        }
        for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
            prometheus.now(&substituted(annotation["expr"].as_str().unwrap()));
        }
    }
}

fn nobody_is_overlooked(names: &BTreeSet<String>, used: &BTreeSet<String>) {
    let of_histogram = |name: &str| {
        let ends = ["_bucket", "_sum", "_count"];
        let base = ends.iter().find_map(|end| name.strip_suffix(end)).map(str::to_owned);
        base.into_iter().flat_map(move |base| ends.map(|end| format!("{base}{end}"))).any(|name| used.contains(&name))
    };
    let is_recorded = |name: &str| name.contains(':');
    let is_excused = |name: &str| UNUSED.iter().any(|(unused, _)| *unused == name);
    let overlooked = names.iter().filter(|name| name.starts_with("interdict_") && !is_recorded(name));
    let overlooked = overlooked.filter(|name| !used.contains(*name) && !of_histogram(name) && !is_excused(name));
    let overlooked: Vec<&String> = overlooked.collect();
    assert!(overlooked.is_empty(), "on no dashboard and in no rule, and the test names no reason: {overlooked:?}");
    for (name, reason) in UNUSED {
        assert!(names.contains(name) && !reason.is_empty(), "{name} is not exported any more");
    }
}
