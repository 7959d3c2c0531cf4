//! Parquet: zstd, row groups of 131,072 rows, times in microseconds UTC without zone, amounts DECIMAL(18, 2).

use std::io;
use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Decimal128Builder, Float64Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::super::changes::Row;
use super::{Columns, Place, Report, Sink, device, reported};

/// Large enough to compress well, small enough to buffer (about 6 MB) and to read in parallel.
const ROW_GROUP_ROWS: usize = 131_072;

pub(crate) struct Columnar {
    schema: SchemaRef,
    columns: Columns,
    writer: ArrowWriter<Sink>,
    rows: usize,
    id: Int64Builder,
    time: TimestampMicrosecondBuilder,
    customer: Int64Builder,
    terminal: Int64Builder,
    amount: Decimal128Builder,
    is_fraud: BooleanBuilder,
    device: StringBuilder,
    latitude: Float64Builder,
    longitude: Float64Builder,
    reported: TimestampMicrosecondBuilder,
    of: Of,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Transactions,
    Chargebacks,
}

impl Columnar {
    pub(super) fn of_transactions(columns: Columns, sink: Sink) -> io::Result<Self> {
        let instant = DataType::Timestamp(TimeUnit::Microsecond, None);
        let mut fields = vec![
            Field::new("transaction_id", DataType::Int64, false),
            Field::new("tx_datetime", instant.clone(), false),
            Field::new("customer_id", DataType::Int64, false),
            Field::new("terminal_id", DataType::Int64, false),
            Field::new("amount", DataType::Decimal128(18, 2), false),
            Field::new("is_fraud", DataType::Boolean, true),
        ];
        if columns.place == Place::Present {
            fields.push(Field::new("device_id", DataType::Utf8, false));
            fields.push(Field::new("latitude", DataType::Float64, false));
            fields.push(Field::new("longitude", DataType::Float64, false));
        }
        if columns.report == Report::Present {
            fields.push(Field::new("reported_at", instant, true));
        }
        Self::new(fields, columns, Of::Transactions, sink)
    }

    pub(super) fn of_chargebacks(sink: Sink) -> io::Result<Self> {
        let instant = DataType::Timestamp(TimeUnit::Microsecond, None);
        let fields = vec![
            Field::new("transaction_id", DataType::Int64, false),
            Field::new("is_fraud", DataType::Boolean, false),
            Field::new("reported_at", instant, false),
        ];
        Self::new(fields, Columns::default(), Of::Chargebacks, sink)
    }

    fn new(fields: Vec<Field>, columns: Columns, of: Of, sink: Sink) -> io::Result<Self> {
        let schema = Arc::new(Schema::new(fields));
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_created_by("interdict simulate".to_owned())
            .build();
        let writer = ArrowWriter::try_new(sink, Arc::clone(&schema), Some(properties)).map_err(io::Error::other)?;
        Ok(Self {
            schema,
            columns,
            writer,
            rows: 0,
            id: Int64Builder::new(),
            time: TimestampMicrosecondBuilder::new(),
            customer: Int64Builder::new(),
            terminal: Int64Builder::new(),
            amount: Decimal128Builder::new().with_data_type(DataType::Decimal128(18, 2)),
            is_fraud: BooleanBuilder::new(),
            device: StringBuilder::new(),
            latitude: Float64Builder::new(),
            longitude: Float64Builder::new(),
            reported: TimestampMicrosecondBuilder::new(),
            of,
        })
    }

    pub(super) fn row(&mut self, row: &Row) -> io::Result<()> {
        let transaction = &row.transaction;
        self.id.append_value(transaction.id);
        self.time.append_value(transaction.time_micros);
        self.customer.append_value(transaction.customer);
        self.terminal.append_value(transaction.terminal);
        self.amount.append_value(i128::from(transaction.amount_minor));
        self.is_fraud.append_option(row.is_fraud);
        if self.columns.place == Place::Present {
            self.device.append_value(device(transaction.device));
            self.latitude.append_value(transaction.latitude);
            self.longitude.append_value(transaction.longitude);
        }
        if self.columns.report == Report::Present {
            self.reported.append_option(reported(row));
        }
        self.appended()
    }

    pub(super) fn chargeback(&mut self, id: i64, reported_micros: i64) -> io::Result<()> {
        self.id.append_value(id);
        self.is_fraud.append_value(true);
        self.reported.append_value(reported_micros);
        self.appended()
    }

    fn appended(&mut self) -> io::Result<()> {
        self.rows += 1;
        if self.rows == ROW_GROUP_ROWS { self.write_batch() } else { Ok(()) }
    }

    fn write_batch(&mut self) -> io::Result<()> {
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(self.id.finish())];
        if self.of == Of::Transactions {
            arrays.push(Arc::new(self.time.finish()));
            arrays.push(Arc::new(self.customer.finish()));
            arrays.push(Arc::new(self.terminal.finish()));
            arrays.push(Arc::new(self.amount.finish()));
        }
        arrays.push(Arc::new(self.is_fraud.finish()));
        if self.columns.place == Place::Present {
            arrays.push(Arc::new(self.device.finish()));
            arrays.push(Arc::new(self.latitude.finish()));
            arrays.push(Arc::new(self.longitude.finish()));
        }
        if self.columns.report == Report::Present || self.of == Of::Chargebacks {
            arrays.push(Arc::new(self.reported.finish()));
        }
        self.rows = 0;
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays).map_err(io::Error::other)?;
        self.writer.write(&batch).map_err(io::Error::other)
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.rows > 0 {
            self.write_batch()?;
        }
        let mut sink = self.writer.into_inner().map_err(io::Error::other)?;
        sink.flush()
    }
}
