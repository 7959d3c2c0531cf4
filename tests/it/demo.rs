//! `interdict demo` as a process: it decides, counts against the truth, sums up, and leaves nothing behind that was not asked for.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use parquet::file::reader::{FileReader as _, SerializedFileReader};

fn demo(arguments: &[&str], temporary: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_interdict"))
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", temporary)
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Folders of a demo; the model's library leaves files of its own beside them.
fn left(temporary: &Path) -> usize {
    let entries = std::fs::read_dir(temporary).expect("the temporary folder");
    entries
        .filter(|entry| entry.as_ref().is_ok_and(|it| it.file_name().as_encoded_bytes().starts_with(b"interdict-")))
        .count()
}

/// The number that follows `name` at the beginning of a line of the summary.
fn number(summary: &str, name: &str) -> u64 {
    let line = summary.lines().rev().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no line '{name}' in\n{summary}"));
    let cell = line[name.len()..].split_whitespace().next().expect("a number");
    cell.replace(',', "").parse().expect("a number")
}

#[test]
fn a_short_demo_decides_everything_and_removes_its_folder() {
    let temporary = tempfile::tempdir().unwrap();
    let done = demo(&["--seconds", "5", "--port", "0", "--speed", "200"], temporary.path());
    let (out, err) = (text(&done.stdout), text(&done.stderr));
    assert!(done.status.success(), "{out}\n{err}");
    for wanted in
        ["learning 40 days of history", "curl -s localhost:", "summary of", "latency", "value of fraud stopped"]
    {
        assert!(out.contains(wanted), "'{wanted}' is not in\n{out}");
    }
    assert!(number(&out, "decisions") > 0, "{out}");
    assert!(!out.contains("undecided"), "{out}");
    assert!(!out.contains('\x1b'), "no terminal, no escape sequences\n{out}");
    assert_eq!(left(temporary.path()), 0, "its folder is gone");
}

#[test]
fn a_named_folder_is_kept_and_taken_up_again() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("kept");
    let named = folder.to_str().unwrap();
    let arguments = ["--seconds", "1", "--port", "0", "--speed", "2000", "--folder", named];
    let first = demo(&arguments, temporary.path());
    assert!(first.status.success(), "{}", text(&first.stderr));
    let out = text(&first.stdout);
    let decided = number(&out, "decisions");
    assert!(decided > 0 && out.contains("decision log"), "{out}");
    assert_eq!(logged(&folder), decided, "every decision is in Parquet");

    let again = demo(&arguments, temporary.path());
    assert!(again.status.success(), "{}", text(&again.stderr));
    let out = text(&again.stdout);
    assert!(out.contains("history is in the folder already"), "history is not learned twice\n{out}");
    assert_eq!(logged(&folder), decided + number(&out, "decisions"), "no payment is decided twice");

    let other = demo(&[&arguments[..], &["--seed", "9"]].concat(), temporary.path());
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other.stderr).contains("name another --folder"), "{}", text(&other.stderr));
}

/// Rows of the decision log.
fn logged(folder: &Path) -> u64 {
    let mut rows = 0;
    let mut folders = vec![folder.join("data/decisions")];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).expect("a folder of the log") {
            let path = entry.expect("an entry of the log").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "parquet") {
                let file = std::fs::File::open(path).expect("a file of the log");
                let reader = SerializedFileReader::new(file).expect("a complete file");
                rows += u64::try_from(reader.metadata().file_metadata().num_rows()).expect("a count");
            }
        }
    }
    rows
}

#[test]
fn a_taken_port_is_said_at_once_with_what_to_do() {
    let temporary = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let refused = demo(&["--seconds", "1", "--port", &port], temporary.path());
    assert_eq!(refused.status.code(), Some(1));
    let err = text(&refused.stderr);
    assert!(err.contains(&port) && err.contains("--port"), "{err}");
    assert_eq!(left(temporary.path()), 0);
}

#[test]
fn a_folder_of_somebody_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("interdict.toml"), "mine").unwrap();
    let refused = demo(&["--port", "0", "--folder", folder.path().to_str().unwrap()], folder.path());
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("holds other files"), "{}", text(&refused.stderr));
    assert_eq!(std::fs::read(folder.path().join("interdict.toml")).unwrap(), b"mine");
}

#[test]
fn a_wrong_speed_is_a_mistake_of_usage() {
    let folder = tempfile::tempdir().unwrap();
    for speed in ["0", "1000001", "fast"] {
        assert_eq!(demo(&["--speed", speed], folder.path()).status.code(), Some(2), "{speed}");
    }
}
