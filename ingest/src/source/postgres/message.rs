//! The messages of `pgoutput`, protocol version 1, borrowed from the frame.
//!
//! Layout: a tag, then fields in network order; texts end with a zero byte. Begin, commit and logical messages are
//! taken off by the transport; types and origins carry no row.
//!
//! Invariant: a message that was parsed is whole: its tuples can be walked to their end.

/// A frame that is not what the protocol says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(super) &'static str);

/// One message.
#[derive(Debug)]
pub(super) enum Message<'a> {
    Relation(Relation<'a>),
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Option<Old<'a>>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        old: Old<'a>,
    },
    Truncate {
        relations: Relations<'a>,
    },
    /// A type, an origin: nothing to be done.
    Other,
}

/// What is known of a row before its change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Old<'a> {
    /// Only the columns of the replica identity.
    Key(Tuple<'a>),
    /// The whole row (REPLICA IDENTITY FULL).
    Row(Tuple<'a>),
}

impl<'a> Old<'a> {
    pub(super) fn tuple(self) -> Tuple<'a> {
        match self {
            Self::Key(tuple) | Self::Row(tuple) => tuple,
        }
    }
}

/// A table's shape, as rows that follow are written.
#[derive(Debug)]
pub(super) struct Relation<'a> {
    pub(super) id: u32,
    /// Empty for `pg_catalog`.
    pub(super) schema: &'a str,
    pub(super) table: &'a str,
    pub(super) columns: Vec<RelationColumn<'a>>,
}

/// One column of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RelationColumn<'a> {
    pub(super) name: &'a str,
    /// The type's object id.
    pub(super) kind: u32,
}

/// The cells of one row, in the order of the table's columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuple<'a> {
    columns: usize,
    bytes: &'a [u8],
}

/// One cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cell<'a> {
    Null,
    /// A toasted value that did not change and was not sent.
    Unchanged,
    Text(&'a [u8]),
}

impl<'a> Tuple<'a> {
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn cells(&self) -> Cells<'a> {
        Cells { left: self.columns, bytes: self.bytes }
    }

    /// The cell of one column; `None` when the tuple is shorter.
    pub(super) fn cell(&self, column: usize) -> Option<Cell<'a>> {
        self.cells().nth(column)
    }
}

/// Walks a tuple.
#[derive(Clone, Debug)]
pub(super) struct Cells<'a> {
    left: usize,
    bytes: &'a [u8],
}

impl<'a> Iterator for Cells<'a> {
    type Item = Cell<'a>;

    fn next(&mut self) -> Option<Cell<'a>> {
        self.left = self.left.checked_sub(1)?;
        let mut bytes = Bytes(self.bytes);
        let cell = bytes.cell().ok()?;
        self.bytes = bytes.0;
        Some(cell)
    }
}

/// The tables of a truncation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relations<'a>(&'a [u8]);

impl Relations<'_> {
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.chunks_exact(4).map(|id| u32::from_be_bytes([id[0], id[1], id[2], id[3]]))
    }
}

/// Parses one frame.
pub(super) fn parse(frame: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut bytes = Bytes(frame);
    let message = match bytes.u8()? {
        b'R' => Message::Relation(relation(&mut bytes)?),
        b'I' => {
            let relation = bytes.u32()?;
            bytes.tag(b'N')?;
            Message::Insert { relation, new: bytes.tuple()? }
        }
        b'U' => {
            let relation = bytes.u32()?;
            let (old, tag) = match bytes.u8()? {
                b'K' => (Some(Old::Key(bytes.tuple()?)), bytes.u8()?),
                b'O' => (Some(Old::Row(bytes.tuple()?)), bytes.u8()?),
                tag => (None, tag),
            };
            if tag != b'N' {
                return Err(Malformed("an update without its new row"));
            }
            Message::Update { relation, old, new: bytes.tuple()? }
        }
        b'D' => {
            let relation = bytes.u32()?;
            let old = match bytes.u8()? {
                b'K' => Old::Key(bytes.tuple()?),
                b'O' => Old::Row(bytes.tuple()?),
                _ => return Err(Malformed("a delete without its old row")),
            };
            Message::Delete { relation, old }
        }
        b'T' => {
            let count = bytes.u32()? as usize;
            let _cascade_and_restart = bytes.u8()?;
            let ids = bytes.take(count.checked_mul(4).ok_or(Malformed("more tables than a message holds"))?)?;
            Message::Truncate { relations: Relations(ids) }
        }
        b'Y' | b'O' => return Ok(Message::Other),
        _ => return Err(Malformed("a message of an unknown kind")),
    };
    if bytes.0.is_empty() { Ok(message) } else { Err(Malformed("bytes after the end of a message")) }
}

fn relation<'a>(bytes: &mut Bytes<'a>) -> Result<Relation<'a>, Malformed> {
    let id = bytes.u32()?;
    let (schema, table) = (bytes.text()?, bytes.text()?);
    let _replica_identity = bytes.u8()?;
    let count = usize::from(bytes.u16()?);
    // A column takes at least 10 bytes: a count that lies reserves no memory.
    let mut columns = Vec::with_capacity(count.min(bytes.0.len() / 10));
    for _ in 0..count {
        let _part_of_key = bytes.u8()?;
        let name = bytes.text()?;
        let kind = bytes.u32()?;
        let _modifier = bytes.u32()?;
        columns.push(RelationColumn { name, kind });
    }
    Ok(Relation { id, schema, table, columns })
}

/// What is left of a frame.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed("a message that ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn tag(&mut self, expected: u8) -> Result<(), Malformed> {
        if self.u8()? == expected { Ok(()) } else { Err(Malformed("an insert without its row")) }
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let end = memchr::memchr(0, self.0).ok_or(Malformed("a name without end"))?;
        let text = self.take(end)?;
        self.take(1)?;
        std::str::from_utf8(text).map_err(|_not_utf8| Malformed("a name that is not UTF-8"))
    }

    fn cell(&mut self) -> Result<Cell<'a>, Malformed> {
        match self.u8()? {
            b'n' => Ok(Cell::Null),
            b'u' => Ok(Cell::Unchanged),
            b't' => {
                let length = self.u32()? as usize;
                Ok(Cell::Text(self.take(length)?))
            }
            _ => Err(Malformed("a cell that is not text")),
        }
    }

    fn tuple(&mut self) -> Result<Tuple<'a>, Malformed> {
        let columns = usize::from(self.u16()?);
        let whole = self.0;
        for _ in 0..columns {
            self.cell()?;
        }
        Ok(Tuple { columns, bytes: &whole[..whole.len() - self.0.len()] })
    }
}
