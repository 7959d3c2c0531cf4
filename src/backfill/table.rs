//! The table of features: columns of the input copied as they are, features encoded beside them, column by column on all threads.
//!
//! A row group of the input whose rows are all events keeps its encoded columns byte for byte; of any other the rows are taken out
//! and its columns encoded anew.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use arrow_array::{Array as _, ArrayRef, BooleanArray, RecordBatch, UInt32Array, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use interdict_features::backfill::{Chunk, Events, Features};
use interdict_ingest::history::{History, HistoryFile};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::arrow::{ARROW_SCHEMA_META_KEY, ArrowSchemaConverter, encode_arrow_schema};
use parquet::basic::{Compression, ZstdLevel};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnPath, Type as ParquetType, TypePtr};
use rayon::prelude::*;

use crate::score::Verdicts;

use super::arrays::{array, field};
use super::{Job, Loaded, Progress};

const POSITION: &str = "_position";
const POSITION_ROW: &str = "_position_row";
/// Row groups encoded before they are written, per thread.
const GROUPS_AHEAD: usize = 2;
/// Parts of a group that are turned into arrays before they are encoded: little enough to stay near.
const CHUNKS_AHEAD: usize = 4;
const BUFFER_BYTES: usize = 1 << 20;

/// How columns are compressed.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Codec {
    /// Fast
    #[default]
    Snappy,
    /// Small
    Zstd,
    /// Not at all
    None,
}

impl Codec {
    fn compression(self) -> Compression {
        match self {
            Self::Snappy => Compression::SNAPPY,
            Self::Zstd => Compression::ZSTD(ZstdLevel::default()),
            Self::None => Compression::UNCOMPRESSED,
        }
    }
}

/// A complete table under its temporary name; removed unless it is published.
#[derive(Debug)]
pub(super) struct Written {
    path: PathBuf,
    /// `None` once it is published.
    file: Option<File>,
}

impl Written {
    fn begin(output: &Path) -> anyhow::Result<Self> {
        let mut name = output.as_os_str().to_owned();
        name.push(".tmp");
        let path = PathBuf::from(name);
        let file = File::create(&path)
            .with_context(|| format!("cannot create {}; does its folder exist and is it writable?", path.display()))?;
        Ok(Self { path, file: Some(file) })
    }

    /// Makes the table durable and gives it its name.
    pub(super) fn publish(mut self, output: &Path) -> anyhow::Result<()> {
        if let Some(file) = &self.file {
            file.sync_all().with_context(|| format!("cannot make {} durable", self.path.display()))?;
            std::fs::rename(&self.path, output)
                .with_context(|| format!("cannot rename {} to {}", self.path.display(), output.display()))?;
        }
        self.file = None;
        Ok(())
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _left_behind = std::fs::remove_file(&self.path);
        }
    }
}

/// One file of the input with what its columns are.
struct Input<'a> {
    file: &'a HistoryFile,
    metadata: ArrowReaderMetadata,
    /// Columns that are copied: index of the root, its first and its last leaf.
    kept: Vec<(usize, std::ops::Range<usize>)>,
    /// Whether its encoded columns fit the output.
    is_alike: bool,
}

/// Where a group's rows come from.
struct Group<'a> {
    input: &'a Input<'a>,
    group: usize,
    batch: usize,
    chunks: std::ops::Range<usize>,
}

/// One group's columns, encoded: those of the input where they could not be copied, then the new ones.
struct Encoded {
    kept: Option<Vec<ArrowColumnChunk>>,
    new: Vec<ArrowColumnChunk>,
}

/// Writes the table under its temporary name.
pub(super) fn write(job: &Job<'_>, loaded: &Loaded, features: &Features<'_>) -> anyhow::Result<Written> {
    let new = new_fields(job, features, &loaded.events);
    let inputs = inputs(&loaded.history, &new)?;
    let Some(first) = inputs.first() else { bail!("the input has no files") };
    let layout = Layout::of(job, first, new)?;
    let written = Written::begin(job.output)?;
    let file = written.file.as_ref().context("the output is open")?.try_clone()?;
    let what = || format!("cannot write {}; is the disk full?", written.path.display());
    let sink = BufWriter::with_capacity(BUFFER_BYTES, file);
    let properties = Arc::new(properties(job, &layout));
    let mut writer = SerializedFileWriter::new(sink, Arc::clone(&layout.root), properties).with_context(what)?;
    let factory = ArrowRowGroupWriterFactory::new(&writer, Arc::clone(&layout.schema));
    let groups = groups(&inputs, &loaded.events);
    let progress = Progress::begin("write", groups.len());
    for ahead in groups.chunks(GROUPS_AHEAD * rayon::current_num_threads()) {
        let encoded = ahead.par_iter().map(|group| encode(job, group, &layout, &factory, &loaded.events, features));
        let encoded: anyhow::Result<Vec<Encoded>> = encoded.collect();
        for (group, encoded) in ahead.iter().zip(encoded?) {
            append(&mut writer, group, encoded).with_context(what)?;
            progress.advance();
        }
    }
    let sink = writer.into_inner().with_context(what)?;
    drop(sink.into_inner().map_err(std::io::IntoInnerError::into_error).with_context(what)?);
    progress.finish();
    Ok(written)
}

/// What the columns of the output are.
struct Layout {
    schema: SchemaRef,
    root: TypePtr,
    new: Vec<Field>,
    /// Leaves of the input's columns.
    kept_leaves: usize,
}

impl Layout {
    fn of(job: &Job<'_>, input: &Input<'_>, new: Vec<Field>) -> anyhow::Result<Self> {
        let added = ArrowSchemaConverter::new().convert(&Schema::new(new.clone()))?;
        let roots = input.roots();
        let mut fields: Vec<TypePtr> = input.kept.iter().map(|(root, _)| Arc::clone(&roots[*root])).collect();
        fields.extend(added.root_schema().get_fields().iter().cloned());
        let root = Arc::new(ParquetType::group_type_builder("schema").with_fields(fields).build()?);
        let old = input.kept.iter().map(|(root, _)| input.metadata.schema().field(*root).clone());
        let fields: Vec<Field> = old.chain(new.clone()).collect();
        let schema =
            Arc::new(Schema::new_with_metadata(fields, identity(job).collect::<std::collections::HashMap<_, _>>()));
        let kept_leaves = input.kept.iter().map(|(_, leaves)| leaves.len()).sum();
        Ok(Self { schema, root, new, kept_leaves })
    }
}

impl Input<'_> {
    fn roots(&self) -> &[TypePtr] {
        self.metadata.parquet_schema().root_schema().get_fields()
    }

    fn kept_fields(&self) -> impl Iterator<Item = &Field> {
        self.kept.iter().map(|(root, _)| self.metadata.schema().field(*root))
    }
}

fn new_fields(job: &Job<'_>, features: &Features<'_>, events: &Events) -> Vec<Field> {
    let mut fields: Vec<Field> = features.columns().iter().map(|column| field(&column.name, column.kind)).collect();
    if job.verdicts.is_some() {
        fields.extend(Verdicts::fields());
    }
    fields.push(Field::new(POSITION, DataType::UInt64, false));
    let has_minor = events.batches().iter().any(|batch| batch.iter().any(|(change, _)| change.version.minor != 0));
    if has_minor {
        fields.push(Field::new(POSITION_ROW, DataType::UInt32, false));
    }
    fields
}

/// The files of the input; a column that the output has anew is not copied.
fn inputs<'a>(history: &'a History, new: &[Field]) -> anyhow::Result<Vec<Input<'a>>> {
    let is_new = |name: &str| name == POSITION_ROW || new.iter().any(|field| field.name() == name);
    let mut inputs: Vec<Input<'a>> = Vec::new();
    for file in history.files() {
        let opened = File::open(file.path()).with_context(|| format!("cannot open {} again", file.path().display()))?;
        let metadata = ArrowReaderMetadata::load(&opened, ArrowReaderOptions::new())
            .with_context(|| format!("cannot read {} again", file.path().display()))?;
        let descriptor = metadata.parquet_schema();
        let mut kept: Vec<(usize, std::ops::Range<usize>)> = Vec::new();
        for leaf in 0..descriptor.num_columns() {
            let root = descriptor.get_column_root_idx(leaf);
            match kept.last_mut() {
                Some((last, leaves)) if *last == root => leaves.end = leaf + 1,
                _ if is_new(descriptor.get_column_root(leaf).name()) => {}
                _ => kept.push((root, leaf..leaf + 1)),
            }
        }
        let mut input = Input { file, metadata, kept, is_alike: true };
        if let Some(first) = inputs.first() {
            if !input
                .kept_fields()
                .map(|f| (f.name(), f.data_type()))
                .eq(first.kept_fields().map(|f| (f.name(), f.data_type())))
            {
                bail!(
                    "{} and {} have different columns; write them alike, or backfill them apart",
                    first.file.path().display(),
                    file.path().display()
                );
            }
            let root = |input: &Input<'_>, at: usize| Arc::clone(&input.roots()[input.kept[at].0]);
            input.is_alike = (0..input.kept.len()).all(|at| root(&input, at) == root(first, at));
        }
        inputs.push(input);
    }
    Ok(inputs)
}

fn groups<'a>(inputs: &'a [Input<'a>], events: &Events) -> Vec<Group<'a>> {
    let mut groups = Vec::new();
    let mut chunk = 0;
    for input in inputs {
        for group in 0..input.file.row_groups() {
            let batch = groups.len();
            let from = chunk;
            while events.chunks().get(chunk).is_some_and(|next| next.batch == batch) {
                chunk += 1;
            }
            groups.push(Group { input, group, batch, chunks: from..chunk });
        }
    }
    groups
}

/// Which definitions the features follow. It stands in the file's own metadata and in the Arrow schema there: readers show one or
/// the other.
fn identity(job: &Job<'_>) -> impl Iterator<Item = (String, String)> {
    let definitions = &job.plan.definitions;
    let groups = definitions.groups.iter();
    let groups = groups.map(|group| (format!("interdict.group.{}", group.name), format!("{:016x}", group.hash)));
    let derived = definitions.derived.iter();
    let derived =
        derived.map(|derived| (format!("interdict.derived.{}", derived.name), format!("{:016x}", derived.hash)));
    groups.chain(derived).chain([
        ("interdict.schema".to_owned(), definitions.schema_hash()),
        ("interdict.stream".to_owned(), job.stream.name.clone()),
    ])
}

fn properties(job: &Job<'_>, layout: &Layout) -> WriterProperties {
    let mut known: Vec<KeyValue> = identity(job).map(|(key, value)| KeyValue::new(key, value)).collect();
    known.push(KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), encode_arrow_schema(&layout.schema)));
    let mut properties = WriterProperties::builder()
        .set_compression(job.codec.compression())
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_max_row_group_row_count(None)
        .set_created_by(concat!("interdict ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(known));
    for field in &layout.new {
        if matches!(field.data_type(), DataType::Float64 | DataType::UInt64 | DataType::UInt32) {
            properties = properties.set_column_dictionary_enabled(ColumnPath::from(field.name().as_str()), false);
        }
    }
    properties.build()
}

/// Encodes what of a group cannot be copied.
fn encode(
    job: &Job<'_>,
    group: &Group<'_>,
    layout: &Layout,
    factory: &ArrowRowGroupWriterFactory,
    events: &Events,
    features: &Features<'_>,
) -> anyhow::Result<Encoded> {
    let mut kept_writers = factory.create_column_writers(group.batch)?;
    let new_writers = kept_writers.split_off(layout.kept_leaves);
    let is_whole = events.is_whole(group.batch)
        && group.input.file.group_rows(group.group) == events.batches()[group.batch].len() as u64;
    let kept = if is_whole && group.input.is_alike { None } else { Some(encode_kept(group, events, kept_writers)?) };
    let mut writers = new_writers;
    let chunks: Vec<usize> = group.chunks.clone().collect();
    for chunks in chunks.chunks(CHUNKS_AHEAD) {
        let parts: Vec<Vec<ArrayRef>> =
            chunks.par_iter().map(|&chunk| new_arrays(job, chunk, events, features)).collect();
        writers.par_iter_mut().zip(&layout.new).enumerate().try_for_each(|(column, (writer, field))| {
            parts.iter().try_for_each(|part| write_array(std::slice::from_mut(writer), field, &part[column]))
        })?;
    }
    let new: anyhow::Result<Vec<ArrowColumnChunk>> =
        writers.into_par_iter().map(|writer| Ok(writer.close()?)).collect();
    Ok(Encoded { kept, new: new? })
}

/// Features of a chunk's events, what was made of them, and their positions.
fn new_arrays(job: &Job<'_>, chunk: usize, events: &Events, features: &Features<'_>) -> Vec<ArrayRef> {
    let columns = features.chunk(chunk);
    let Chunk { batch, from, to, .. } = events.chunks()[chunk];
    let rows: Vec<usize> = (from..to).filter(|&row| events.is_event(batch, row)).collect();
    let verdicts =
        job.verdicts.map(|verdicts| verdicts.columns(&events.batches()[batch], &rows, features.columns(), &columns));
    let mut arrays: Vec<ArrayRef> = columns.into_iter().map(array).chain(verdicts.into_iter().flatten()).collect();
    let positions = || rows.iter().map(|&row| events.position(batch, row));
    arrays.push(Arc::new(UInt64Array::from_iter_values(positions().map(|version| version.major))));
    arrays.push(Arc::new(UInt32Array::from_iter_values(positions().map(|version| version.minor))));
    arrays
}

fn write_array(writers: &mut [ArrowColumnWriter], field: &Field, array: &ArrayRef) -> anyhow::Result<()> {
    for (writer, leaf) in writers.iter_mut().zip(compute_leaves(field, array)?) {
        writer.write(&leaf)?;
    }
    Ok(())
}

/// Encodes the input's columns of those rows that are events.
fn encode_kept(
    group: &Group<'_>,
    events: &Events,
    mut writers: Vec<ArrowColumnWriter>,
) -> anyhow::Result<Vec<ArrowColumnChunk>> {
    let file = group.input.file;
    let start = file.group_start(group.group);
    let rows = usize::try_from(file.group_rows(group.group)).context("a row group of this machine's size")?;
    let mut is_event = vec![false; rows];
    for (row, (change, _)) in events.batches()[group.batch].iter().enumerate() {
        let at = usize::try_from(change.position - start - 1).context("a position of the group")?;
        is_event[at] = events.is_event(group.batch, row);
    }
    let reader =
        ParquetRecordBatchReaderBuilder::new_with_metadata(File::open(file.path())?, group.input.metadata.clone())
            .with_row_groups(vec![group.group])
            .build()?;
    let mut before = 0;
    for batch in reader {
        let batch = batch?;
        let mask = BooleanArray::from(is_event[before..before + batch.num_rows()].to_vec());
        before += batch.num_rows();
        let batch: RecordBatch = arrow_select::filter::filter_record_batch(&batch, &mask)?;
        let mut from = 0;
        for (root, leaves) in &group.input.kept {
            let field = group.input.metadata.schema().field(*root);
            let to = from + leaves.len();
            if !batch.column(*root).is_empty() {
                write_array(&mut writers[from..to], field, batch.column(*root))?;
            }
            from = to;
        }
    }
    writers.into_iter().map(|writer| Ok(writer.close()?)).collect()
}

fn append(
    writer: &mut SerializedFileWriter<BufWriter<File>>,
    group: &Group<'_>,
    encoded: Encoded,
) -> anyhow::Result<()> {
    let mut out = writer.next_row_group()?;
    match encoded.kept {
        Some(kept) => {
            for chunk in kept {
                chunk.append_to_row_group(&mut out)?;
            }
        }
        None => {
            let source = File::open(group.input.file.path())?;
            let metadata = group.input.metadata.metadata().row_group(group.group);
            for leaf in group.input.kept.iter().flat_map(|(_, leaves)| leaves.clone()) {
                let column = metadata.column(leaf);
                let close = ColumnCloseResult {
                    bytes_written: u64::try_from(column.compressed_size()).unwrap_or_default(),
                    rows_written: u64::try_from(metadata.num_rows()).unwrap_or_default(),
                    metadata: column.clone(),
                    bloom_filter: None,
                    column_index: None,
                    offset_index: None,
                };
                out.append_column(&source, close)?;
            }
        }
    }
    for chunk in encoded.new {
        chunk.append_to_row_group(&mut out)?;
    }
    out.close()?;
    Ok(())
}
