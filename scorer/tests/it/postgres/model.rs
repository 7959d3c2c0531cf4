//! Random acts by two processes that die, repeat themselves and lose connections, against a model of three lines.

use std::collections::{BTreeMap, BTreeSet};

use interdict_scorer::action::act::{Act, ActKind};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::rig::{Outbox, Rig, action, block};

const ACCOUNTS: i64 = 3;

/// One step of one of the processes.
#[derive(Clone, Debug)]
enum Step {
    /// An act enters the process's outbox.
    Act { process: usize, kind: ActKind, account: i64, second: i64 },
    /// The process has done an act and died before it wrote so: the act is there again.
    Again { process: usize, which: usize },
    /// The process dies and starts again.
    Die { process: usize },
    /// The server ends all sessions.
    Kill,
    /// The others get a moment.
    Yield(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![3 => Just(ActKind::Block), 1 => Just(ActKind::ManualBlock), 3 => Just(ActKind::Unblock)];
    let step = prop_oneof![
        8 => (0..2_usize, kind, 1..=ACCOUNTS, 0..40_i64)
            .prop_map(|(process, kind, account, second)| Step::Act { process, kind, account, second }),
        3 => (0..2_usize, any::<usize>()).prop_map(|(process, which)| Step::Again { process, which }),
        2 => (0..2_usize).prop_map(|process| Step::Die { process }),
        1 => Just(Step::Kill),
        6 => any::<u8>().prop_map(Step::Yield),
    ];
    prop::collection::vec(step, 1..60)
}

#[test]
fn the_latest_act_counts_and_every_effect_happens_once() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let rig = runtime.block_on(Rig::new(&[]));
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&steps(), |steps| {
        runtime.block_on(check(&rig, steps));
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

async fn check(rig: &Rig, steps: Vec<Step>) {
    rig.outbox.receivers().check().await.unwrap();
    let reset = "UPDATE accounts SET status = 'active', blocks = 0, unblocks = 0; TRUNCATE interdict_ledger";
    rig.bank.batch_execute(reset).await.unwrap();
    let config = action(&rig.url(), &[("connections", "3")]);
    let processes = [Outbox::new(&config), Outbox::new(&config)];
    let mut running = processes.each_ref().map(|process| Some(process.start()));
    let mut acts: Vec<(usize, Act)> = Vec::new();
    for (number, step) in (1_u64..).zip(&steps) {
        match *step {
            Step::Act { process, kind, account, second } => {
                let act = Act { kind, ..block(number, account, second) };
                processes[process].put(&act);
                acts.push((process, act));
            }
            Step::Again { process, which } => {
                if let Some((_, act)) = acts.get(which % acts.len().max(1)) {
                    processes[process].put(act);
                }
            }
            Step::Die { process } => {
                running[process].take().unwrap().die().await;
                running[process] = Some(processes[process].start());
            }
            Step::Kill => {
                let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                    WHERE datname = current_database() AND usename = 'interdict'";
                rig.bank.query_one(kill, &[]).await.unwrap();
            }
            Step::Yield(count) => {
                for _ in 0..count {
                    tokio::task::yield_now().await;
                }
            }
        }
        running.iter().flatten().for_each(super::rig::Running::wake);
    }
    for (process, running) in processes.iter().zip(running) {
        process.wait_empty().await;
        running.unwrap().end().await;
    }
    compare(rig, &acts).await;
}

async fn compare(rig: &Rig, acts: &[(usize, Act)]) {
    for account in 1..=ACCOUNTS {
        let own: Vec<&Act> =
            acts.iter().map(|(_, act)| act).filter(|act| act.target.key == account.to_string()).collect();
        let last = own.iter().max_by_key(|act| (act.decided_at, act.kind == ActKind::Unblock));
        let (status, blocks, unblocks) = rig.account(account).await;
        let expected = if last.is_some_and(|act| act.kind != ActKind::Unblock) { "blocked" } else { "active" };
        assert_eq!(status, expected, "{own:#?}");
        let lines = "SELECT kind, outcome, decision_id FROM interdict_ledger WHERE entity_key = $1";
        let lines = rig.bank.query(lines, &[&account.to_string()]).await.unwrap();
        let ids: BTreeSet<uuid::Uuid> = lines.iter().map(|line| line.get(2)).collect();
        assert_eq!(ids, own.iter().map(|act| act.id).collect(), "every act has its line");
        assert_eq!(lines.len(), ids.len());
        let mut done: BTreeMap<bool, i32> = BTreeMap::new();
        for line in lines.iter().filter(|line| line.get::<_, &str>(1) == "done") {
            *done.entry(line.get::<_, &str>(0) == "unblock").or_default() += 1;
        }
        let counted = (done.get(&false).copied().unwrap_or(0), done.get(&true).copied().unwrap_or(0));
        assert_eq!((blocks, unblocks), counted, "effects are those of the lines");
    }
}
