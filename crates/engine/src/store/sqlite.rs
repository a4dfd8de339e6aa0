//! The journal in a SQLite file: write-ahead log, every commit synced. All SQL of the engine is here.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cutover_core::{Event, Moment, Record, ReleaseId, ReleaseKind, RevisionId, ServiceName};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard};

use super::{
    Append, Claimed, Journal, Memo, Opening, ReleaseRow, ServiceRow, StoreError, StoreErrorKind, Stored,
    Tenant,
};
use crate::clock::Reading;

/// Marks the file as ours: "cutv".
const APPLICATION_ID: i64 = 0x6375_7476;
const BUSY: Duration = Duration::from_secs(5);

const SCHEMA: [&str; 5] = [
    "PRAGMA application_id = 1668641910",
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    "CREATE TABLE services (
        name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, holder TEXT, owner TEXT,
        lease_boot TEXT, lease_boot_ms INTEGER, lease_wall_ms INTEGER) STRICT",
    "CREATE TABLE releases (
        id TEXT PRIMARY KEY, service TEXT NOT NULL, number INTEGER NOT NULL, kind TEXT NOT NULL,
        candidate TEXT NOT NULL, replaced TEXT, asked_by TEXT NOT NULL,
        opened_ms INTEGER NOT NULL, decided_ms INTEGER, ended_ms INTEGER, ending TEXT, ready_ms INTEGER,
        gone INTEGER NOT NULL DEFAULT 0, UNIQUE (service, number)) STRICT",
    "CREATE TABLE records (
        release TEXT NOT NULL, sequence INTEGER NOT NULL, epoch INTEGER NOT NULL, at INTEGER NOT NULL,
        wall_ms INTEGER NOT NULL, boot TEXT NOT NULL, boot_ms INTEGER NOT NULL, event TEXT NOT NULL,
        PRIMARY KEY (release, sequence)) STRICT, WITHOUT ROWID",
];

/// Journals of earlier versions have none of it, and those versions leave it alone.
const MEMORY: &str = "CREATE TABLE IF NOT EXISTS memory (
    release TEXT NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (release, name)) STRICT, WITHOUT ROWID";

pub(super) struct Sqlite {
    path: PathBuf,
    connection: Mutex<SqliteConnection>,
    /// The connection met an error, and is replaced before it is used again.
    broken: AtomicBool,
}

impl Sqlite {
    pub(super) async fn open(path: &Path, schema: u32) -> Result<Sqlite, StoreError> {
        match std::fs::metadata(path) {
            Ok(found) if !found.is_file() => {
                return Err(StoreError::new(
                    StoreErrorKind::NotWritable,
                    format!("{} is not a file", path.display()),
                ));
            }
            Ok(_) => whole(path)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(path, schema).await?,
            Err(error) => return Err(StoreError::io(path, "open", error)),
        }
        let sql = |error| StoreError::sql(path, error);
        let mut connection = options(path, false).connect().await.map_err(sql)?;
        let id: i64 = scalar(&mut connection, "PRAGMA application_id").await.map_err(sql)?;
        if id != APPLICATION_ID {
            return Err(StoreError::damaged(path, "it is a SQLite file, but not a journal of cutover"));
        }
        let verdict: String =
            sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut connection).await.map_err(sql)?;
        if verdict != "ok" {
            return Err(StoreError::damaged(path, verdict.trim()));
        }
        let found: String = sqlx::query_scalar("SELECT value FROM meta WHERE key = 'schema'")
            .fetch_one(&mut connection)
            .await
            .map_err(sql)?;
        let found: u32 =
            found.parse().map_err(|_| StoreError::damaged(path, "its schema version is no number"))?;
        if found > schema {
            let what = format!(
                "the journal {} has schema version {found}, this cutover knows up to {schema}",
                path.display()
            );
            let hint = "use the version of cutover that wrote it, or a newer one; traffic goes on as it is";
            return Err(StoreError::new(StoreErrorKind::Newer, what).with_hint(hint));
        }
        // A journal that can be read and not written is found out now, not in the middle of a release.
        sqlx::query("UPDATE meta SET value = value WHERE key = 'schema'")
            .execute(&mut connection)
            .await
            .map_err(sql)?;
        sqlx::query(MEMORY).execute(&mut connection).await.map_err(sql)?;
        Ok(Sqlite {
            path: path.to_path_buf(),
            connection: Mutex::new(connection),
            broken: AtomicBool::new(false),
        })
    }

    fn sql(&self) -> impl Fn(sqlx::Error) -> StoreError + '_ {
        |error| {
            self.broken.store(true, Ordering::SeqCst);
            StoreError::sql(&self.path, error)
        }
    }

    /// Takes the connection. After an error it is a new one: SQLite ends a transaction by itself when the disk is full,
    /// the library on top of it does not notice, and refuses every transaction from then on.
    async fn connected(&self) -> Result<MutexGuard<'_, SqliteConnection>, StoreError> {
        let mut connection = self.connection.lock().await;
        if self.broken.swap(false, Ordering::SeqCst) {
            *connection = options(&self.path, false).connect().await.map_err(self.sql())?;
        }
        Ok(connection)
    }

    fn stored(&self, row: &SqliteRow) -> Result<Stored, StoreError> {
        let sequence = unsigned(row, "sequence");
        let event: String = row.get("event");
        let event: Event = serde_json::from_str(&event).map_err(|error| {
            StoreError::damaged(&self.path, format!("record {sequence} is unreadable")).because(error)
        })?;
        let wall_ms = unsigned(row, "wall_ms");
        let record = Record {
            sequence,
            epoch: unsigned(row, "epoch"),
            at: Moment(unsigned(row, "at")),
            wall_ms,
            event,
        };
        Ok(Stored {
            record,
            reading: Reading { wall_ms, boot: row.get("boot"), boot_ms: unsigned(row, "boot_ms") },
        })
    }

    fn release_row(&self, row: &SqliteRow) -> Result<ReleaseRow, StoreError> {
        let ending: Option<String> = row.get("ending");
        let ending = ending.map(|text| serde_json::from_str(&text)).transpose().map_err(|error| {
            StoreError::damaged(&self.path, "the ending of a release is unreadable").because(error)
        })?;
        let kind: String = row.get("kind");
        Ok(ReleaseRow {
            id: ReleaseId::new(row.get::<String, _>("id")),
            service: ServiceName::new(row.get::<String, _>("service")),
            number: unsigned(row, "number"),
            kind: if kind == "rollback" { ReleaseKind::Rollback } else { ReleaseKind::Deploy },
            candidate: RevisionId::new(row.get::<String, _>("candidate")),
            replaced: row.get::<Option<String>, _>("replaced").map(RevisionId::new),
            by: row.get("asked_by"),
            opened_ms: unsigned(row, "opened_ms"),
            decided_ms: optional(row, "decided_ms"),
            ended_ms: optional(row, "ended_ms"),
            ending,
            ready_ms: optional(row, "ready_ms"),
            gone: unsigned(row, "gone") > 0,
        })
    }
}

/// Refuses a file that has lost a part. SQLite takes an almost empty file for a new database, and writes over it.
fn whole(path: &Path) -> Result<(), StoreError> {
    let io = |error| StoreError::io(path, "read", error);
    let mut head = [0; 100];
    let mut file = std::fs::File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    if length < head.len() as u64 {
        return Err(StoreError::damaged(path, format!("the file has only {length} bytes")));
    }
    file.read_exact(&mut head).map_err(io)?;
    if !head.starts_with(b"SQLite format 3\0") {
        return Err(StoreError::damaged(path, "it is not a SQLite file"));
    }
    let page = match u16::from_be_bytes([head[16], head[17]]) {
        1 => 65_536,
        size => u64::from(size),
    };
    let wanted = page * u64::from(u32::from_be_bytes([head[28], head[29], head[30], head[31]]));
    // With a write-ahead log the rest may be there.
    let log = std::fs::metadata(format!("{}-wal", path.display())).is_ok_and(|log| log.len() > 0);
    if length < wanted && !log {
        return Err(StoreError::damaged(
            path,
            format!("{} of its {wanted} bytes are missing", wanted - length),
        ));
    }
    Ok(())
}

/// Makes a complete journal beside its place and moves it there: a crash leaves a whole file or none.
async fn create(path: &Path, schema: u32) -> Result<(), StoreError> {
    let with = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    if with("-wal").exists() {
        return Err(StoreError::damaged(path, "the file is gone, its -wal is still there"));
    }
    let new = with(&format!(".new-{}", std::process::id()));
    let io = |error| StoreError::io(path, "create", error);
    let sql = |error| StoreError::sql(path, error);
    let _ = std::fs::remove_file(&new);
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(io)?;
    let made = async {
        let mut connection = options(&new, true).connect().await?;
        for statement in SCHEMA {
            sqlx::query(statement).execute(&mut connection).await?;
        }
        sqlx::query("INSERT INTO meta (key, value) VALUES ('schema', ?)")
            .bind(schema.to_string())
            .execute(&mut connection)
            .await?;
        connection.close().await
    };
    let made = made.await.map_err(sql).and_then(|()| {
        std::fs::File::open(&new).and_then(|file| file.sync_all()).map_err(io)?;
        // Not a rename: when two processes start at once, the first one's journal stays.
        match std::fs::hard_link(&new, path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(io(error)),
            _ => Ok(()),
        }
    });
    let _ = std::fs::remove_file(&new);
    made?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
}

fn options(path: &Path, new: bool) -> SqliteConnectOptions {
    // The new file is one file until it is in its place, so that moving it moves all of it.
    let mode = if new { SqliteJournalMode::Delete } else { SqliteJournalMode::Wal };
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(mode)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY)
        .disable_statement_logging()
}

async fn scalar(connection: &mut SqliteConnection, sql: &'static str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(sql).fetch_one(connection).await
}

fn unsigned(row: &SqliteRow, column: &str) -> u64 {
    u64::try_from(row.get::<i64, _>(column)).unwrap_or(0)
}

fn optional(row: &SqliteRow, column: &str) -> Option<u64> {
    row.get::<Option<i64>, _>(column).map(|value| u64::try_from(value).unwrap_or(0))
}

/// SQLite's integers are signed; no count of ours comes near the sign.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn service_row(row: &SqliteRow) -> ServiceRow {
    let boot: Option<String> = row.get("lease_boot");
    ServiceRow {
        name: ServiceName::new(row.get::<String, _>("name")),
        epoch: unsigned(row, "epoch"),
        holder: row.get::<Option<String>, _>("holder").map(ReleaseId::new),
        owner: row.get("owner"),
        lease_until: boot.zip(optional(row, "lease_boot_ms")),
    }
}

async fn service(
    connection: &mut SqliteConnection,
    name: &ServiceName,
) -> Result<Option<ServiceRow>, sqlx::Error> {
    let row = sqlx::query("SELECT * FROM services WHERE name = ?").bind(name.as_str());
    Ok(row.fetch_optional(connection).await?.as_ref().map(service_row))
}

async fn seat(
    connection: &mut SqliteConnection,
    name: &ServiceName,
    epoch: u64,
    holder: Option<&ReleaseId>,
    tenant: Option<&Tenant>,
) -> Result<(), sqlx::Error> {
    let until = |from: fn(&Reading) -> u64| tenant.map(|tenant| signed(from(&tenant.now) + tenant.lease_ms));
    sqlx::query(
        "INSERT INTO services (name, epoch, holder, owner, lease_boot, lease_boot_ms, lease_wall_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch, holder = excluded.holder, owner = excluded.owner,
         lease_boot = excluded.lease_boot, lease_boot_ms = excluded.lease_boot_ms,
         lease_wall_ms = excluded.lease_wall_ms",
    )
    .bind(name.as_str())
    .bind(signed(epoch))
    .bind(holder.map(ReleaseId::as_str))
    .bind(tenant.map(|tenant| tenant.owner.as_str()))
    .bind(tenant.map(|tenant| tenant.now.boot.as_str()))
    .bind(until(|now| now.boot_ms))
    .bind(until(|now| now.wall_ms))
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert(
    connection: &mut SqliteConnection,
    release: &ReleaseId,
    record: &Record,
    reading: &Reading,
    event: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO records (release, sequence, epoch, at, wall_ms, boot, boot_ms, event)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(release.as_str())
    .bind(signed(record.sequence))
    .bind(signed(record.epoch))
    .bind(signed(record.at.0))
    .bind(signed(reading.wall_ms))
    .bind(&reading.boot)
    .bind(signed(reading.boot_ms))
    .bind(event)
    .execute(connection)
    .await?;
    Ok(())
}

fn json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| {
        StoreError::new(StoreErrorKind::Other, "a record could not be written as JSON").because(error)
    })
}

#[async_trait]
impl Journal for Sqlite {
    async fn open_release(&self, opening: &Opening) -> Result<u64, StoreError> {
        let Event::Opened { release, plan } = &opening.record.event else {
            return Err(StoreError::new(
                StoreErrorKind::Other,
                "a release begins with something else than opened",
            ));
        };
        let mut connection = self.connected().await?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(self.sql())?;
        let row = service(&mut transaction, &release.service).await.map_err(self.sql())?;
        if let Some(ServiceRow { holder: Some(holder), owner, .. }) = row {
            return Err(StoreError::held(holder, owner.unwrap_or_else(|| "nobody".into())));
        }
        let taken: i64 =
            sqlx::query_scalar("SELECT COALESCE(MAX(number), 0) FROM releases WHERE service = ?")
                .bind(release.service.as_str())
                .fetch_one(&mut *transaction)
                .await
                .map_err(self.sql())?;
        if taken >= signed(opening.number) {
            let what = format!("another release was opened first: {} is taken", release.id);
            return Err(StoreError::new(StoreErrorKind::Conflict, what));
        }
        let epoch = row.map_or(0, |row| row.epoch) + 1;
        let tenant = &opening.tenant;
        seat(&mut transaction, &release.service, epoch, Some(&release.id), Some(tenant))
            .await
            .map_err(self.sql())?;
        sqlx::query(
            "INSERT INTO releases (id, service, number, kind, candidate, replaced, asked_by, opened_ms)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(release.id.as_str())
        .bind(release.service.as_str())
        .bind(signed(opening.number))
        .bind(if release.kind == ReleaseKind::Rollback { "rollback" } else { "deploy" })
        .bind(release.candidate.as_str())
        .bind(plan.stable.as_ref().map(RevisionId::as_str))
        .bind(&release.by)
        .bind(signed(tenant.now.wall_ms))
        .execute(&mut *transaction)
        .await
        .map_err(self.sql())?;
        let record = Record { epoch, ..opening.record.clone() };
        let event = json(&record.event)?;
        insert(&mut transaction, &release.id, &record, &tenant.now, &event).await.map_err(self.sql())?;
        transaction.commit().await.map_err(self.sql())?;
        Ok(epoch)
    }

    async fn claim(&self, name: &ServiceName, tenant: &Tenant, force: bool) -> Result<Claimed, StoreError> {
        let mut connection = self.connected().await?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(self.sql())?;
        let row = service(&mut transaction, name).await.map_err(self.sql())?;
        let left_ms = row.as_ref().and_then(|row| row.lease_left_ms(&tenant.now));
        if let (Some(left_ms), false) = (left_ms, force) {
            let owner = row.and_then(|row| row.owner).unwrap_or_else(|| "nobody".into());
            return Ok(Claimed::No { owner, left_ms });
        }
        let rows =
            sqlx::query("SELECT * FROM releases WHERE service = ? AND ended_ms IS NULL ORDER BY number")
                .bind(name.as_str())
                .fetch_all(&mut *transaction)
                .await
                .map_err(self.sql())?;
        let unended = rows.iter().map(|row| self.release_row(row)).collect::<Result<Vec<_>, _>>()?;
        let epoch = row.as_ref().map_or(0, |row| row.epoch) + 1;
        let holder = row.and_then(|row| row.holder);
        // Who has nothing to drive needs no lease; the epoch alone keeps older drivers away.
        let tenant = (!unended.is_empty()).then_some(tenant);
        seat(&mut transaction, name, epoch, holder.as_ref(), tenant).await.map_err(self.sql())?;
        transaction.commit().await.map_err(self.sql())?;
        Ok(Claimed::Yes { epoch, unended })
    }

    async fn append(&self, append: &Append) -> Result<(), StoreError> {
        let Append { release, record, reading, .. } = append;
        let event = json(&record.event)?;
        let mut connection = self.connected().await?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(self.sql())?;
        let row = service(&mut transaction, &append.service).await.map_err(self.sql())?;
        if let Some(row) = row.filter(|row| row.epoch != record.epoch) {
            return Err(StoreError::fenced(row.owner.as_deref().unwrap_or("a newer driver")));
        }
        let there = sqlx::query("SELECT epoch, event FROM records WHERE release = ? AND sequence = ?")
            .bind(release.as_str())
            .bind(signed(record.sequence))
            .fetch_optional(&mut *transaction)
            .await
            .map_err(self.sql())?;
        if let Some(there) = there {
            // The answer to the first try was lost; or someone else wrote here, which only an older driver believes.
            let same = unsigned(&there, "epoch") == record.epoch && there.get::<String, _>("event") == event;
            return if same { Ok(()) } else { Err(StoreError::fenced("another driver")) };
        }
        insert(&mut transaction, release, record, reading, &event).await.map_err(self.sql())?;
        if append.decided || append.ended.is_some() || append.ready_ms.is_some() {
            let ending = append.ended.as_ref().map(json).transpose()?;
            let now = signed(reading.wall_ms);
            sqlx::query(
                "UPDATE releases SET decided_ms = COALESCE(decided_ms, ?), ended_ms = COALESCE(ended_ms, ?),
                 ending = COALESCE(ending, ?), ready_ms = COALESCE(ready_ms, ?) WHERE id = ?",
            )
            .bind(append.decided.then_some(now))
            .bind(append.ended.as_ref().map(|_| now))
            .bind(ending)
            .bind(append.ready_ms.map(signed))
            .bind(release.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(self.sql())?;
        }
        if append.ended.is_some() {
            sqlx::query("DELETE FROM memory WHERE release = ?")
                .bind(release.as_str())
                .execute(&mut *transaction)
                .await
                .map_err(self.sql())?;
        }
        if append.decided || append.ended.is_some() {
            sqlx::query("UPDATE services SET holder = NULL WHERE name = ? AND holder = ?")
                .bind(append.service.as_str())
                .bind(release.as_str())
                .execute(&mut *transaction)
                .await
                .map_err(self.sql())?;
        }
        transaction.commit().await.map_err(self.sql())
    }

    async fn remember(&self, memo: &Memo) -> Result<(), StoreError> {
        let mut connection = self.connected().await?;
        // One statement, so that whoever gives up waiting for it leaves no transaction behind.
        let kept = sqlx::query(
            "INSERT INTO memory (release, name, text)
             SELECT ?, ?, ? WHERE EXISTS (SELECT 1 FROM services WHERE name = ? AND epoch = ?)
             ON CONFLICT (release, name) DO UPDATE SET text = excluded.text",
        )
        .bind(memo.release.as_str())
        .bind(&memo.name)
        .bind(&memo.text)
        .bind(memo.service.as_str())
        .bind(signed(memo.epoch))
        .execute(&mut *connection)
        .await
        .map_err(self.sql())?;
        if kept.rows_affected() == 0 { Err(StoreError::fenced("another driver")) } else { Ok(()) }
    }

    async fn remembered(&self, release: &ReleaseId) -> Result<BTreeMap<String, String>, StoreError> {
        let mut connection = self.connected().await?;
        let rows = sqlx::query("SELECT name, text FROM memory WHERE release = ?")
            .bind(release.as_str())
            .fetch_all(&mut *connection)
            .await
            .map_err(self.sql())?;
        Ok(rows.iter().map(|row| (row.get("name"), row.get("text"))).collect())
    }

    async fn renew(&self, name: &ServiceName, epoch: u64, tenant: &Tenant) -> Result<(), StoreError> {
        let mut connection = self.connected().await?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(self.sql())?;
        let row = service(&mut transaction, name).await.map_err(self.sql())?;
        let Some(row) = row.filter(|row| row.epoch == epoch) else {
            return Err(StoreError::fenced("another driver"));
        };
        seat(&mut transaction, name, epoch, row.holder.as_ref(), Some(tenant)).await.map_err(self.sql())?;
        transaction.commit().await.map_err(self.sql())
    }

    async fn vacate(&self, name: &ServiceName, epoch: u64) -> Result<(), StoreError> {
        let mut connection = self.connected().await?;
        sqlx::query(
            "UPDATE services SET owner = NULL, lease_boot = NULL, lease_boot_ms = NULL, lease_wall_ms = NULL
             WHERE name = ? AND epoch = ?",
        )
        .bind(name.as_str())
        .bind(signed(epoch))
        .execute(&mut *connection)
        .await
        .map_err(self.sql())?;
        Ok(())
    }

    async fn destroy(&self, name: &ServiceName, epoch: u64) -> Result<(), StoreError> {
        let mut connection = self.connected().await?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(self.sql())?;
        match service(&mut transaction, name).await.map_err(self.sql())? {
            Some(ServiceRow { holder: Some(holder), owner, .. }) => {
                return Err(StoreError::held(holder, owner.unwrap_or_else(|| "nobody".into())));
            }
            Some(row) if row.epoch == epoch => {}
            row => {
                return Err(StoreError::fenced(
                    row.and_then(|row| row.owner).as_deref().unwrap_or("another driver"),
                ));
            }
        }
        sqlx::query("UPDATE releases SET gone = 1 WHERE service = ?")
            .bind(name.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(self.sql())?;
        transaction.commit().await.map_err(self.sql())
    }

    async fn records(&self, release: &ReleaseId, from: u64, limit: u32) -> Result<Vec<Stored>, StoreError> {
        let mut connection = self.connected().await?;
        let rows = sqlx::query(
            "SELECT * FROM records WHERE release = ? AND sequence >= ? ORDER BY sequence LIMIT ?",
        )
        .bind(release.as_str())
        .bind(signed(from))
        .bind(i64::from(limit))
        .fetch_all(&mut *connection)
        .await
        .map_err(self.sql())?;
        rows.iter().map(|row| self.stored(row)).collect()
    }

    async fn services(&self) -> Result<Vec<ServiceRow>, StoreError> {
        let mut connection = self.connected().await?;
        let rows = sqlx::query("SELECT * FROM services ORDER BY name");
        let rows = rows.fetch_all(&mut *connection).await.map_err(self.sql())?;
        Ok(rows.iter().map(service_row).collect())
    }

    async fn releases(
        &self,
        service: Option<&ServiceName>,
        limit: u32,
    ) -> Result<Vec<ReleaseRow>, StoreError> {
        let mut connection = self.connected().await?;
        // Within a service the number says what came later: the wall clock may have been set back.
        let rows = sqlx::query(
            "SELECT * FROM releases WHERE ?1 IS NULL OR service = ?1
             ORDER BY CASE WHEN ?1 IS NULL THEN opened_ms ELSE number END DESC, number DESC LIMIT ?2",
        )
        .bind(service.map(ServiceName::as_str))
        .bind(i64::from(limit))
        .fetch_all(&mut *connection)
        .await
        .map_err(self.sql())?;
        rows.iter().map(|row| self.release_row(row)).collect()
    }

    async fn release(&self, id: &ReleaseId) -> Result<Option<ReleaseRow>, StoreError> {
        let mut connection = self.connected().await?;
        let row = sqlx::query("SELECT * FROM releases WHERE id = ?").bind(id.as_str());
        let row = row.fetch_optional(&mut *connection).await.map_err(self.sql())?;
        row.as_ref().map(|row| self.release_row(row)).transpose()
    }
}
