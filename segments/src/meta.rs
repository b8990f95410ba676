//! What is known of a sealed segment without opening it: the catalog keeps this, and opening checks it against the
//! file.

use nearstone_base::codec::{Reader, Writer};
use nearstone_base::{Lsn, Schema, SegmentId, Uuid};

/// A sealed segment's identity card.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentMeta {
    /// Its number in this store, which is also its file's name.
    pub id: SegmentId,
    /// Its own identity, written into the file: it stays when the file travels to another store.
    pub uuid: Uuid,
    /// The schema of its rows.
    pub schema: Schema,
    /// Bytes of the file.
    pub len: u64,
    /// XXH3-128 of the footer, which holds, directly or through tables, the checksum of every block.
    pub digest: u128,
    /// Rows, dead ones included.
    pub rows: u32,
    /// Lowest version of its rows.
    pub lsn_min: Lsn,
    /// Highest version of its rows.
    pub lsn_max: Lsn,
    /// Bytes of the vectors, keys and payloads as the user gave them.
    pub user_bytes: u64,
    /// When it was written, seconds since the Unix epoch (for the age rule of compaction).
    pub created_secs: u64,
}

impl SegmentMeta {
    /// Writes it.
    pub fn encode(&self, out: &mut Writer) {
        out.u64(self.id.0);
        out.raw(&self.uuid.0);
        self.schema.encode(out);
        out.u64(self.len);
        out.raw(&self.digest.to_le_bytes());
        out.u32(self.rows);
        out.u64(self.lsn_min);
        out.u64(self.lsn_max);
        out.u64(self.user_bytes);
        out.u64(self.created_secs);
    }

    /// Reads what [`SegmentMeta::encode`] wrote.
    pub fn decode(input: &mut Reader<'_>) -> Option<SegmentMeta> {
        Some(SegmentMeta {
            id: SegmentId(input.u64()?),
            uuid: Uuid(input.raw(16)?.try_into().ok()?),
            schema: Schema::decode(input)?,
            len: input.u64()?,
            digest: u128::from_le_bytes(input.raw(16)?.try_into().ok()?),
            rows: input.u32()?,
            lsn_min: input.u64()?,
            lsn_max: input.u64()?,
            user_bytes: input.u64()?,
            created_secs: input.u64()?,
        })
    }
}
