//! A full disk under the database: acts wait and say so, capture goes on, and every block is made once there is room.
#![expect(clippy::float_cmp, reason = "counters hold whole numbers")]

use tempfile::TempDir;

use super::{config, decision, metric};
use crate::bank::Bank;
use crate::disk::SmallDisk;
use crate::place::{Caller, Place};
use crate::postgres_server::own;

/// Accounts of which four fill a page: none of them can be changed without another page.
const ACCOUNTS: &str = "
ALTER TABLE accounts ADD pad char(1800) DEFAULT 'x';
ALTER TABLE accounts ALTER pad SET STORAGE PLAIN;
DELETE FROM accounts WHERE id >= 2000;
VACUUM FULL accounts;
ALTER TABLE accounts SET TABLESPACE small;
";

/// Customers who are to be blocked while the disk is full.
const CONDEMNED: std::ops::RangeInclusive<i64> = 6..=9;

fn blocked(bank: &Bank) -> String {
    bank.ask("SELECT id, blocks FROM accounts WHERE status = 'blocked' ORDER BY id")
}

fn tries(caller: &Caller) -> f64 {
    metric(caller, "interdict_scorer_action_retries_total", "action=\"block_account\"")
}

#[test]
fn a_full_disk_keeps_acts_waiting_and_loses_neither_blocks_nor_payments() {
    // It ends after the server that has its files there.
    let folder = TempDir::new().unwrap();
    let disk = SmallDisk::mount(folder.path().join("small"));
    own(folder.path());
    own(disk.path());
    let bank = Bank::open();
    bank.ask(&format!("CREATE TABLESPACE small LOCATION '{}'", disk.path().display()));
    bank.ask(ACCOUNTS);
    let place = Place::new(&config(&bank, "interdict", &bank.action()));
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    process.wait_for("the snapshot is read");

    disk.fill();
    for customer in CONDEMNED {
        bank.burst(customer);
    }
    let told = process.wait_for("the action's database cannot be used; its acts wait in the outbox");
    for word in ["ERROR", "No space left on device", "free space on the database's disk", "acts go on by themselves"] {
        assert!(told.contains(word), "no '{word}' in: {told}");
    }
    // Who is let through by his own payments is decided as ever.
    for payment in 1..=20 {
        bank.pay(payment, 100 + payment, "5.00");
        assert_eq!(decision(&caller, payment)["decision"]["outcome"], "approve");
    }
    assert_eq!(decision(&caller, 606)["decision"]["outcome"], "block");
    let condemned = CONDEMNED.count() as f64;
    caller.until(|caller| (metric(caller, "interdict_scorer_outbox_intents", "") == condemned).then_some(()));
    let before = tries(&caller);
    caller.until(|caller| (tries(caller) >= before + 2.0 * condemned).then_some(()));
    assert_eq!(blocked(&bank), "", "nobody can be blocked yet");
    // A process that dies meanwhile leaves it to the next one.
    process.kill();
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    process.wait_for("the action's database cannot be used");

    disk.free();
    bank.wait_for("SELECT id, blocks FROM accounts WHERE status = 'blocked' ORDER BY id", "6|1\n7|1\n8|1\n9|1");
    process.wait_for("the action's database can be used again");
    caller.until(|caller| (metric(caller, "interdict_scorer_outbox_intents", "") == 0.0).then_some(()));
    process.stop();
    assert_eq!(blocked(&bank), "6|1\n7|1\n8|1\n9|1", "once each");
    let ledger = bank.ask("SELECT entity_key, kind, outcome FROM interdict_ledger ORDER BY entity_key");
    assert_eq!(ledger, "6|block|done\n7|block|done\n8|block|done\n9|block|done");
    let paid: usize = bank.ask("SELECT count(*) FROM transactions").parse().unwrap();
    assert_eq!(place.remains().decisions.len(), paid, "every payment has one decision");
}
