//! CSV and plain JSON lines: instants as RFC 3339 text, amounts as decimal numbers with two digits, null as an empty
//! field or `null`.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use super::super::changes::Row;
use super::{Columns, Place, Report, Sink, decimal, device, instant, reported};

pub(crate) struct Csv {
    columns: Columns,
    sink: Sink,
    line: String,
}

impl Csv {
    pub(super) fn of_transactions(columns: Columns, mut sink: Sink) -> io::Result<Self> {
        let mut head = "transaction_id,tx_datetime,customer_id,terminal_id,amount,is_fraud".to_owned();
        if columns.place == Place::Present {
            head.push_str(",device_id,latitude,longitude");
        }
        if columns.report == Report::Present {
            head.push_str(",reported_at");
        }
        writeln!(sink, "{head}")?;
        Ok(Self { columns, sink, line: String::new() })
    }

    pub(super) fn of_chargebacks(mut sink: Sink) -> io::Result<Self> {
        writeln!(sink, "transaction_id,is_fraud,reported_at")?;
        Ok(Self { columns: Columns::default(), sink, line: String::new() })
    }

    pub(super) fn row(&mut self, row: &Row) -> io::Result<()> {
        let transaction = &row.transaction;
        self.line.clear();
        let label = match row.is_fraud {
            Some(true) => "true",
            Some(false) => "false",
            None => "",
        };
        let _infallible = write!(
            self.line,
            "{},{},{},{},{},{label}",
            transaction.id,
            instant(transaction.time_micros),
            transaction.customer,
            transaction.terminal,
            decimal(transaction.amount_minor)
        );
        if self.columns.place == Place::Present {
            let (latitude, longitude) = (transaction.latitude, transaction.longitude);
            let _infallible = write!(self.line, ",{},{latitude},{longitude}", device(transaction.device));
        }
        if self.columns.report == Report::Present {
            let _infallible = write!(self.line, ",{}", reported(row).map_or_else(String::new, instant));
        }
        self.line.push('\n');
        self.sink.write_all(self.line.as_bytes())
    }

    pub(super) fn chargeback(&mut self, id: i64, reported_micros: i64) -> io::Result<()> {
        writeln!(self.sink, "{id},true,{}", instant(reported_micros))
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

pub(crate) struct Json {
    columns: Columns,
    sink: Sink,
    line: String,
}

impl Json {
    pub(super) fn new(columns: Columns, sink: Sink) -> Self {
        Self { columns, sink, line: String::new() }
    }

    pub(super) fn row(&mut self, row: &Row) -> io::Result<()> {
        let transaction = &row.transaction;
        self.line.clear();
        object(&mut self.line, row, self.columns, &decimal(transaction.amount_minor), |micros| {
            format!("\"{}\"", instant(micros))
        });
        self.line.push('\n');
        self.sink.write_all(self.line.as_bytes())
    }

    pub(super) fn chargeback(&mut self, id: i64, reported_micros: i64) -> io::Result<()> {
        let reported = instant(reported_micros);
        writeln!(self.sink, r#"{{"transaction_id":{id},"is_fraud":true,"reported_at":"{reported}"}}"#)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// Appends the row as a JSON object; `amount` and what `time` returns are JSON already.
pub(super) fn object(out: &mut String, row: &Row, columns: Columns, amount: &str, time: impl Fn(i64) -> String) {
    let transaction = &row.transaction;
    let label = match row.is_fraud {
        Some(true) => "true",
        Some(false) => "false",
        None => "null",
    };
    let _infallible = write!(
        out,
        r#"{{"transaction_id":{},"tx_datetime":{},"customer_id":{},"terminal_id":{},"amount":{amount},"is_fraud":{label}"#,
        transaction.id,
        time(transaction.time_micros),
        transaction.customer,
        transaction.terminal,
    );
    if columns.place == Place::Present {
        let (latitude, longitude) = (transaction.latitude, transaction.longitude);
        let device = device(transaction.device);
        let _infallible = write!(out, r#","device_id":"{device}","latitude":{latitude},"longitude":{longitude}"#);
    }
    if columns.report == Report::Present {
        let _infallible = write!(out, r#","reported_at":{}"#, reported(row).map_or_else(|| "null".to_owned(), time));
    }
    out.push('}');
}
