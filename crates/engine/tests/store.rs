//! The journal's file: damaged, newer, not writable; never replaced.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use cutover_engine::{EngineErrorKind, Store};

use crate::harness::{House, request, started};

async fn refused(path: &std::path::Path) -> (EngineErrorKind, String, String) {
    match Store::open(path).await {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => (error.kind(), error.to_string(), error.hint().to_string()),
    }
}

/// A journal with a release in it, closed.
async fn journal() -> (House, std::path::PathBuf) {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", "")).await);
    crate::harness::ended(&engine, &id).await;
    engine.shutdown().await;
    drop(engine);
    let path = house.folder.path().join("journal.db");
    // Once reopened and closed, the write-ahead log is in the file.
    let wal = house.folder.path().join("journal.db-wal");
    for _ in 0..1_000 {
        if !wal.exists() {
            break;
        }
        crate::harness::steady(async { std::thread::sleep(std::time::Duration::from_millis(5)) }).await;
    }
    assert!(!wal.exists(), "the journal was not closed");
    (house, path)
}

#[tokio::test(start_paused = true)]
async fn a_truncated_journal_is_told_and_kept() {
    let (house, path) = journal().await;
    let whole = fs::read(&path).unwrap();
    assert!(whole.len() > 20_000, "{}", whole.len());
    for length in [0, 1, 50, 99, 100, 1_000, 4_096, 8_192, 10_000, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let (kind, what, hint) = refused(&path).await;
        assert_eq!(kind, EngineErrorKind::Damaged, "{length}: {what}");
        assert!(what.contains("journal.db"), "{what}");
        assert!(hint.contains("traffic goes on") && hint.contains("cutover deploy"), "{hint}");
        assert!(fs::read(&path).unwrap() == whole[..length], "{length}: the file was changed");
    }
    fs::write(&path, &whole).unwrap();
    house.engine("host:2", true).await.0.recover().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn garbage_is_told_and_kept() {
    let (_house, path) = journal().await;
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    for byte in &mut flipped[4_096..4_096 + 200] {
        *byte ^= 0xff;
    }
    for content in [b"not a database at all".to_vec(), vec![0; 65_536], flipped] {
        fs::write(&path, &content).unwrap();
        let (kind, what, _) = refused(&path).await;
        assert_eq!(kind, EngineErrorKind::Damaged, "{what}");
        assert!(fs::read(&path).unwrap() == content, "the file was changed");
    }
}

#[tokio::test]
async fn a_lost_file_with_its_log_left_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    fs::write(folder.path().join("journal.db-wal"), "left").unwrap();
    assert_eq!(refused(&path).await.0, EngineErrorKind::Damaged);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    use sqlx::{ConnectOptions, Connection};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    drop(Store::open(&path).await.unwrap());
    let mut raw = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    sqlx::query("UPDATE meta SET value = '99' WHERE key = 'schema'").execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    let (kind, what, hint) = refused(&path).await;
    assert_eq!(kind, EngineErrorKind::NewerJournal);
    assert!(what.contains("99") && hint.contains("version of cutover that wrote it"), "{what}; {hint}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_told() {
    // Not even root writes there.
    let (kind, what, hint) = refused(std::path::Path::new("/proc/journal.db")).await;
    assert_eq!(kind, EngineErrorKind::Store, "{what}");
    assert!(hint.contains("/proc") && hint.contains("belong to the user"), "{hint}");
    let missing = tempfile::tempdir().unwrap().path().join("nowhere/journal.db");
    assert_eq!(refused(&missing).await.0, EngineErrorKind::Store);
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    // Root writes there all the same: /proc above is its case.
    if fs::write(folder.path().join("probe"), "").is_ok() {
        return;
    }
    assert_eq!(refused(&folder.path().join("journal.db")).await.0, EngineErrorKind::Store);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn the_file_is_the_users_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    drop(Store::open(&path).await.unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(Store::open(&path).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_older_epoch_writes_nothing() {
    use cutover_engine::store::{Append, StoreErrorKind, Tenant};
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", "")).await);
    crate::harness::ended(&engine, &id).await;
    let store = Store::open(&house.folder.path().join("journal.db")).await.unwrap();
    let before = store.records(&id, 0, 1_000).await.unwrap();
    let last = before.last().unwrap();
    let tick = |epoch| Append {
        service: crate::harness::shop(),
        release: id.clone(),
        record: cutover_core::Record {
            sequence: last.record.sequence + 1,
            epoch,
            event: cutover_core::Event::Tick,
            ..last.record.clone()
        },
        reading: last.reading.clone(),
        decided: false,
        ended: None,
        ready_ms: None,
    };
    let epoch = last.record.epoch;
    assert_eq!(store.append(&tick(epoch - 1)).await.unwrap_err().kind(), StoreErrorKind::Fenced);
    let tenant = Tenant { owner: "host:9".into(), now: last.reading.clone(), lease_ms: 1_000 };
    let old = store.renew(&crate::harness::shop(), epoch - 1, &tenant).await;
    assert_eq!(old.unwrap_err().kind(), StoreErrorKind::Fenced);
    assert_eq!(store.records(&id, 0, 1_000).await.unwrap().len(), before.len());
    store.append(&tick(epoch)).await.unwrap();
    store.append(&tick(epoch)).await.unwrap();
    assert_eq!(store.records(&id, 0, 1_000).await.unwrap().len(), before.len() + 1, "the same again is once");
}

#[tokio::test]
async fn what_was_measured_is_kept_by_the_driver_alone_and_goes_with_its_release() {
    use cutover_engine::store::{Append, Memo, StoreErrorKind};
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", "")).await);
    let machine = crate::harness::ended(&engine, &id).await;
    let path = house.folder.path().join("journal.db");
    let store = Store::open(&path).await.unwrap();
    let last = store.records(&id, 0, 1_000).await.unwrap().pop().unwrap();
    let memo = |epoch, text: &str| Memo {
        service: crate::harness::shop(),
        epoch,
        release: id.clone(),
        name: "metric errors".into(),
        text: text.into(),
    };
    let epoch = last.record.epoch;
    store.remember(&memo(epoch, "1")).await.unwrap();
    store.remember(&memo(epoch, "2")).await.unwrap();
    let old = store.remember(&memo(epoch - 1, "0")).await;
    assert_eq!(old.unwrap_err().kind(), StoreErrorKind::Fenced);
    // Who opens it next reads it.
    let store = Store::open(&path).await.unwrap();
    let kept = store.remembered(&id).await.unwrap();
    assert_eq!(kept, [("metric errors".to_string(), "2".to_string())].into());
    let end = Append {
        service: crate::harness::shop(),
        release: id.clone(),
        record: cutover_core::Record {
            sequence: last.record.sequence + 1,
            event: cutover_core::Event::Tick,
            ..last.record
        },
        reading: last.reading,
        decided: false,
        ended: machine.ending().cloned(),
        ready_ms: None,
    };
    store.append(&end).await.unwrap();
    assert!(store.remembered(&id).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_journal_of_an_earlier_version_gets_what_it_lacks() {
    use sqlx::{Connection, SqliteConnection};
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    engine.shutdown().await;
    drop(engine);
    let path = house.folder.path().join("journal.db");
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    sqlx::query("DROP TABLE memory").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let store = Store::open(&path).await.unwrap();
    let releases = store.releases(None, 10).await.unwrap();
    assert!(store.remembered(&releases[0].id).await.unwrap().is_empty());
}
