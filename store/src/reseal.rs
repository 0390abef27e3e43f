//! Sealed values under another master key: how many there are under each, and sealing them anew while the installation runs.
//!
//! Nothing is kept of how far it came: a value's own beginning tells by which key it was sealed, so what was killed goes on. A value
//! is replaced only where it still is what was read.

use crate::{
    db::{Store, failed, read, write},
    seal::{self, MARK, MasterKeyId, Opened, Place},
};
use domain::{Error, Result};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// A column of sealed values. Those that are empty or null are none.
struct Sealed {
    table: &'static str,
    column: &'static str,
    /// What tells the rows apart.
    row: &'static str,
    /// Of the place: its column, and SQL of its account and row. Values are copied from one column to another and stay bound to the first.
    place: &'static str,
    account: &'static str,
    of: &'static str,
}

impl Sealed {
    const fn own(
        table: &'static str,
        column: &'static str,
        row: &'static str,
        place: &'static str,
    ) -> Self {
        Self {
            table,
            column,
            row,
            place,
            account: "account",
            of: row,
        }
    }
}

/// Every column of them; a test compares it with the migrations.
const SEALED: [Sealed; 6] = [
    Sealed {
        account: "''",
        ..Sealed::own("peppers", "sealed", "id", "peppers.sealed")
    },
    Sealed::own("versions", "secrets", "id", "versions.secrets"),
    Sealed::own(
        "agents",
        "webhook_secret",
        "incarnation",
        "agents.webhook_secret",
    ),
    // After the column that a rotation copies it from.
    Sealed::own(
        "agents",
        "webhook_secret_before",
        "incarnation",
        "agents.webhook_secret",
    ),
    // Before `deliveries`, which copies from it.
    Sealed::own("alert_policies", "secret", "id", "alert_policies.secret"),
    Sealed {
        of: "sealed_for",
        ..Sealed::own("deliveries", "secret", "id", "alert_policies.secret")
    },
];
const PEPPER: &str = "keys";

/// One walk over all sealed values.
#[derive(Debug, Default)]
pub struct Walk {
    column: usize,
    after: String,
    pub resealed: u64,
    /// Of those that cannot be opened: how many, and why the first cannot.
    pub refused: u64,
    pub why: Option<Error>,
}

/// What tells a row, the account and row of its place, and the value.
type Row = (String, String, String, Vec<u8>);

fn pepper_place() -> Place {
    Place::new("peppers.sealed", "", PEPPER)
}

impl Store {
    /// Takes what hashes of keys are keyed with from its row; the first time, the row is made. Before keys are hashed.
    pub async fn take_up_pepper(&self) -> Result<()> {
        let select = "SELECT sealed FROM peppers WHERE id = $1";
        let insert = "INSERT INTO peppers (id, sealed, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        for _ in 0..2 {
            let row: Option<(Vec<u8>,)> =
                read!(self, pool => sqlx::query_as(select).bind(PEPPER).fetch_optional(pool).await)
                    .map_err(failed)?;
            if let Some((sealed,)) = row {
                let opened = self.secrets.open(&pepper_place(), &sealed)?;
                let pepper =
                    <[u8; 32]>::try_from(&opened[..]).map_err(|_| crate::db::corrupt("pepper"))?;
                self.secrets.set_pepper(Zeroizing::new(pepper));
                return Ok(());
            }
            let sealed = self
                .secrets
                .seal(&pepper_place(), self.secrets.first_pepper())?;
            write!(self, pool => sqlx::query(insert).bind(PEPPER).bind(&sealed).bind(self.now().0).execute(pool).await.map(|_| ()))
                .map_err(failed)?;
        }
        Err(Error::internal("the row of the pepper does not stay"))
    }

    /// The master key that seals.
    pub fn active_master_key(&self) -> Result<MasterKeyId> {
        self.secrets.active()
    }

    /// How many values each master key has sealed; `None`: those from before keys had names.
    pub async fn sealed_values(&self) -> Result<BTreeMap<Option<MasterKeyId>, u64>> {
        let mut found = BTreeMap::new();
        for Sealed { table, column, .. } in &SEALED {
            let sql = sqlx::AssertSqlSafe(format!(
                "SELECT substr({column}, 1, {MARK}), COUNT(*) FROM {table} WHERE length({column}) > 0 GROUP BY 1"
            ));
            let rows: Vec<(Vec<u8>, i64)> =
                read!(self, pool => sqlx::query_as(sql).fetch_all(pool).await).map_err(failed)?;
            for (mark, count) in rows {
                *found.entry(seal::sealed_by(&mark)).or_default() += count.unsigned_abs();
            }
        }
        Ok(found)
    }

    /// Goes on with a walk over at most `limit` values that another key than the active one has sealed. `false`: it is at its end.
    pub async fn reseal_some(&self, walk: &mut Walk, limit: u32) -> Result<bool> {
        let Some(sealed) = SEALED.get(walk.column) else {
            return Ok(false);
        };
        let Sealed {
            table,
            column,
            row,
            place,
            account,
            of,
        } = sealed;
        let mark = seal::mark(self.secrets.active()?);
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {row}, {account}, {of}, {column} FROM {table} WHERE {row} > $1 AND length({column}) > 0 AND substr({column}, 1, {MARK}) <> $2 ORDER BY {row} LIMIT $3"
        ));
        let rows: Vec<Row> = read!(self, pool => sqlx::query_as(sql).bind(&walk.after).bind(&mark[..]).bind(i64::from(limit))
            .fetch_all(pool).await)
        .map_err(failed)?;
        let Some((last, ..)) = rows.last() else {
            (walk.column, walk.after) = (walk.column + 1, String::new());
            return Ok(true);
        };
        walk.after.clone_from(last);
        for (name, account, of, old) in &rows {
            let place = Place::new(place, account, of);
            match self.reseal(sealed, name, &place, old).await {
                Ok(done) => walk.resealed += u64::from(done),
                Err(error) => {
                    walk.refused += 1;
                    walk.why.get_or_insert(error);
                }
            }
        }
        Ok(true)
    }

    /// `false`: it has changed, or gone, meanwhile.
    async fn reseal(
        &self,
        Sealed {
            table, column, row, ..
        }: &Sealed,
        name: &str,
        place: &Place,
        old: &[u8],
    ) -> Result<bool> {
        let plain = self.secrets.open(place, old)?;
        let new = self.secrets.seal(place, &plain)?;
        let sql = sqlx::AssertSqlSafe(format!(
            "UPDATE {table} SET {column} = $3 WHERE {row} = $1 AND {column} = $2"
        ));
        let replaced = write!(self, pool => sqlx::query(sql).bind(name).bind(old).bind(&new).execute(pool).await.map(|done| done.rows_affected()));
        Ok(replaced.map_err(failed)? == 1)
    }

    /// A secret as it is kept: readable only with the master key, and only in its place.
    pub fn seal(&self, place: &Place, plain: &[u8]) -> Result<Vec<u8>> {
        self.secrets.seal(place, plain)
    }

    pub fn unseal(&self, place: &Place, sealed: &[u8]) -> Result<Opened> {
        self.secrets.open(place, sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is bytes and not sealed.
    const PLAIN: [&str; 2] = ["keys.hash", "artifacts.bytes"];

    #[test]
    fn every_column_of_bytes_is_sealed_or_known() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).expect("migrations").flatten() {
            let text = std::fs::read_to_string(entry.path()).expect("a migration");
            let mut table = "";
            for line in text.lines().map(str::trim) {
                if let Some(rest) = line
                    .strip_prefix("CREATE TABLE ")
                    .or(line.strip_prefix("ALTER TABLE "))
                {
                    table = rest.split([' ', '(']).next().expect("a name");
                }
                let Some((before, _)) = line.split_once(" BYTEA") else {
                    continue;
                };
                let column = before.split_whitespace().last().expect("a column");
                found.push(format!("{table}.{column}"));
            }
        }
        let mut known: Vec<String> = SEALED
            .iter()
            .map(|one| format!("{}.{}", one.table, one.column))
            .chain(PLAIN.map(str::to_owned))
            .collect();
        found.sort();
        known.sort();
        assert_eq!(found, known, "what seals a column lists it in SEALED");
    }
}
