//! Folders that are locked, foreign, damaged or forbidden.

use std::fs;
use std::io;

use super::*;

fn filled(folder: &Folder) {
    let store = block_on(folder.open());
    for number in 0..20 {
        let states = (0..50).map(|key| state(key, vec![number; 900])).collect();
        store.commit_now(&Commit { states, ..Commit::default() }).unwrap();
    }
}

fn check_corrupt(result: Result<EmbeddedStore, StoreError>, part: &str) {
    match result {
        Err(error @ StoreError::Corrupt { .. }) => {
            let message = error.to_string();
            assert!(message.contains(part) && message.contains("move"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn folder_belongs_to_one_store() {
    let folder = Folder::new();
    let store = block_on(folder.open());
    let error = open(folder.0.path()).unwrap_err();
    assert!(matches!(&error, StoreError::Locked { path } if path == folder.0.path()), "{error}");
    drop(store);
    open(folder.0.path()).unwrap();
}

#[test]
fn unknown_format_is_named() {
    for (format, part) in [(&[9_u8][..], "format 9"), (&[][..], "names none"), (&[1, 1][..], "names none")] {
        let folder = Folder::new();
        let store = block_on(folder.open());
        store
            .write(|_, engine| {
                let mut batch = engine.batch(1);
                batch.insert(&engine.meta, layout::FORMAT_KEY, format);
                engine.write(batch, Durability::Process)
            })
            .unwrap();
        drop(store);
        check_corrupt(open(folder.0.path()), part);
    }
}

#[test]
fn damaged_journal_is_refused() {
    let folder = Folder::new();
    filled(&folder);
    let journal = folder.0.path().join("data/0.jnl");
    let mut bytes = fs::read(&journal).unwrap();
    let at = bytes.windows(900).position(|window| window == [5; 900]).unwrap();
    bytes[at + 100] ^= 1;
    fs::write(&journal, bytes).unwrap();
    check_corrupt(open(folder.0.path()), "ChecksumMismatch");
}

#[test]
fn foreign_database_is_refused() {
    let folder = Folder::new();
    filled(&folder);
    fs::write(folder.0.path().join("data/version"), b"FJL\x02").unwrap();
    check_corrupt(open(folder.0.path()), "V2");
    fs::write(folder.0.path().join("data/version"), b"").unwrap();
    check_corrupt(open(folder.0.path()), "InvalidVersion");
}

#[test]
fn damaged_tables_give_errors_and_no_wrong_values() {
    let folder = Folder::new();
    filled(&folder);
    let store = block_on(folder.open());
    let flush = |engine: &Engine| engine.states.rotate_memtable_and_wait().map_err(|error| engine.failure(error));
    store.read(flush).unwrap();
    drop(store);
    let mut damaged = 0;
    for table in tables(&folder.0.path().join("data/keyspaces")) {
        let mut bytes = fs::read(&table).unwrap();
        if let Some(at) = bytes.windows(500).position(|window| window == [19; 500]) {
            bytes[at + 100] ^= 1;
            fs::write(&table, bytes).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1);
    let store = open(folder.0.path()).unwrap();
    let errors = (0..50).filter_map(|key| match store.fetch_now(&states(key..key + 1)) {
        Ok(fetched) => {
            assert_eq!(fetched.states, [[Some(Bytes::from(vec![19; 900]))]]);
            None
        }
        Err(error) => Some(error),
    });
    let errors = errors.collect::<Vec<_>>();
    assert!(!errors.is_empty() && errors.iter().all(|error| matches!(error, StoreError::Corrupt { .. })), "{errors:?}");
}

fn tables(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(tables(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn stored_bytes_that_make_no_sense_are_named() {
    let folder = Folder::new();
    let store = block_on(folder.open());
    let entity = EntityRef { entity: "card".to_owned(), key: "1".to_owned() };
    let list = interdict_features::decision::ListKind::Allow;
    store
        .write(|_, engine| {
            let mut batch = engine.batch(2);
            let mut key = Vec::new();
            layout::state_key(&mut key, "card", &0_u64.to_be_bytes(), 1)?;
            batch.insert(&engine.states, key.as_slice(), [1, 2]);
            batch.insert(&engine.lists, layout::list_key(list, &entity)?.as_slice(), b"{");
            engine.write(batch, Durability::Process)
        })
        .unwrap();
    let error = store.fetch_now(&states(0..1)).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { what: "state or row record", .. }), "{error}");
    let error = store.lists_now().unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { what: "list entry", .. }), "{error}");
}

#[test]
fn interrupted_creation_is_started_again() {
    let folder = Folder::new();
    fs::create_dir_all(folder.0.path().join("data.new/keyspaces")).unwrap();
    fs::write(folder.0.path().join("data.new/0.jnl"), b"half").unwrap();
    filled(&folder);
    assert!(!folder.0.path().join("data.new").exists());
}

#[test]
fn errors_of_files_say_what_to_do() {
    let path = Path::new("/var/lib/store");
    let of = |kind: io::ErrorKind| failure::of_file(path, "opening the lock file", io::Error::from(kind));
    let engine = |kind: io::ErrorKind| failure::of_engine(path, fjall::Error::Io(io::Error::from(kind)));
    for error in [of(io::ErrorKind::PermissionDenied), engine(io::ErrorKind::PermissionDenied)] {
        assert!(matches!(&error, StoreError::Denied { .. }) && error.to_string().contains("let this user"), "{error}");
    }
    for error in [of(io::ErrorKind::StorageFull), engine(io::ErrorKind::StorageFull)] {
        assert!(matches!(&error, StoreError::DiskFull { .. }) && error.to_string().contains("free some"), "{error}");
    }
    let below = fjall::Error::Storage(fjall::LsmError::Io(io::Error::from_raw_os_error(28)));
    assert!(matches!(failure::of_engine(path, below), StoreError::DiskFull { .. }));
    let in_place_of_the_folder = tempfile::NamedTempFile::new().unwrap();
    assert!(matches!(open(in_place_of_the_folder.path()), Err(StoreError::Io { .. })));
}
