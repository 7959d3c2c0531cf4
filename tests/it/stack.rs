//! The example on PostgreSQL and Redis as `make stack` runs it: frauds are blocked in the database, and an alert of drift arrives.

use std::process::Command;

use crate::program::root;

#[test]
fn the_stack_blocks_accounts_and_alerts() {
    let done = Command::new("python3")
        .arg(root().join("examples/postgres/stack.py"))
        .args(["--interdict", env!("CARGO_BIN_EXE_interdict"), "--seconds", "30", "--rate", "300"])
        .current_dir(root())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    let summary = said.lines().find(|line| line.starts_with("summary")).unwrap();
    let numbers: Vec<u64> = summary.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [payments, decisions, blocked, alerts] = numbers[..] else { panic!("{summary}") };
    assert!(payments > 1_000 && decisions >= payments && blocked > 0 && alerts > 0, "{summary}");
    assert!(said.contains("commit to block") && said.contains("-firing: "), "{said}");
}
