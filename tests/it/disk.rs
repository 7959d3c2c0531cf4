//! A full disk: intake waits, says so, and goes on when there is space, as if nothing had been.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::place::{DEFINITIONS, Place, text};

/// A file system of 24 MiB, gone with this value.
#[derive(Debug)]
pub(crate) struct SmallDisk(PathBuf);

/// What takes the room of a full one.
const FILLER: &str = "filler";

impl SmallDisk {
    pub(crate) fn mount(folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(&folder).status();
        let is_there = mounted.is_ok_and(|status| status.success());
        assert!(
            is_there,
            "this test mounts a small tmpfs, which root may; as another user run it under: unshare --map-root-user --mount"
        );
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Takes all the room that is left.
    pub(crate) fn fill(&self) {
        let mut filler = std::fs::File::create(self.0.join(FILLER)).unwrap();
        for piece in [1 << 20, 4096, 1] {
            while filler.write_all(&vec![0; piece]).is_ok() {}
        }
    }

    /// Gives it back.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.0.join(FILLER)).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _left_to_the_system = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn intake_waits_for_space_and_neither_loses_nor_doubles() {
    let config = |folder: &str| {
        DEFINITIONS
            .replace("\"data\"", &format!("\"{folder}data\""))
            .replace("\"decisions\"", &format!("\"{folder}decisions\""))
            + &format!(
                "[source]\nname = \"payments\"\ntype = \"file\"\npath = \"live.jsonl\"\nformat = \"debezium\"\nstream = \"transactions\"\n[engine]\ncheckpoint = \"20ms\"\ndead_letters = \"{folder}dead-letters.jsonl\"\n"
            )
    };
    let calm = Place::new(&config(""));
    calm.run(
        "simulate --customers 1500 --days 2 --label-delay 2h --label-spread 1h --format debezium --output live.jsonl",
    );
    let mut changes: String = String::new();
    for (at, line) in text(&calm.path("live.jsonl")).split_inclusive('\n').enumerate() {
        changes.push_str(line);
        if at % 100 == 50 {
            changes.push_str("{\"broken\n");
        }
    }
    calm.write("live.jsonl", &changes);
    calm.run("run");
    let expected = calm.remains();
    assert!(expected.letters.len() > 50 && expected.decisions.len() > 3_000);

    let place = Place::new(&config("small/"));
    place.write("live.jsonl", &changes);
    let disk = SmallDisk::mount(place.path("small"));
    // Room for the beginning of the store's journal only.
    place.write(format!("small/{FILLER}").as_str(), vec![0; 20 << 20]);
    let mut process = place.start("run");
    process.wait_for("intake waits");
    disk.free();
    let (status, log) = process.end();
    assert!(status.success(), "{log}");
    for name in ["data", "decisions", "dead-letters.jsonl"] {
        let copied = Command::new("cp").arg("-r").arg(place.path("small").join(name)).arg(place.path(name)).status();
        assert!(copied.unwrap().success());
    }
    drop(disk);
    place.remains().assert_equals(&expected);
}
