//! Sets a Fluvio up, as its own tool does: `tests/fluvio.py` and `docker-compose.yml` start servers without that tool.
//!
//! - `fluvio_setup unit CONTROLLER ID PUBLIC PRIVATE` tells the stream controller of a streaming unit;
//! - `fluvio_setup topic CONTROLLER NAME PARTITIONS` makes a topic and waits until something can be produced to it.
//!
//! Addresses are HOST:PORT. What is there already stays as it is.

use std::time::Duration;

use fluvio::metadata::customspu::CustomSpuSpec;
use fluvio::metadata::spu::SpuSpec;
use fluvio::metadata::topic::TopicSpec;
use fluvio::{Fluvio, FluvioAdmin, FluvioClusterConfig};

type Failure = Box<dyn std::error::Error>;

/// How long servers that were started just now are waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(250);

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = async {
        match arguments.as_slice() {
            ["unit", controller, id, public, private] => register(controller, &unit(id, public, private)?).await,
            ["topic", controller, name, partitions] => create(controller, name, partitions.parse()?).await,
            _ => Err("usage: fluvio_setup unit CONTROLLER ID PUBLIC PRIVATE | topic CONTROLLER NAME PARTITIONS".into()),
        }
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await? })
}

fn unit(id: &str, public: &str, private: &str) -> Result<CustomSpuSpec, Failure> {
    let id = id.parse()?;
    let ((public, public_port), (private, private_port)) = (address(public)?, address(private)?);
    Ok(CustomSpuSpec {
        id,
        public_endpoint: SpuSpec::new_public_addr(id, public_port, public).public_endpoint,
        private_endpoint: SpuSpec::new_private_addr(id, private_port, private).private_endpoint,
        ..CustomSpuSpec::default()
    })
}

async fn connect(controller: &str) -> Result<Fluvio, Failure> {
    Ok(Fluvio::connect_with_config(&FluvioClusterConfig::new(controller)).await?)
}

async fn register(controller: &str, unit: &CustomSpuSpec) -> Result<(), Failure> {
    let admin = connect(controller).await?.admin().await;
    if !has_unit(&admin, unit).await? {
        admin.create(format!("custom-spu-{}", unit.id), false, unit.clone()).await?;
    }
    Ok(())
}

async fn has_unit(admin: &FluvioAdmin, unit: &CustomSpuSpec) -> Result<bool, Failure> {
    let units = admin.list::<CustomSpuSpec, _>(Vec::<String>::new()).await?;
    Ok(units.iter().any(|known| known.spec.id == unit.id))
}

async fn create(controller: &str, name: &str, partitions: u32) -> Result<(), Failure> {
    let client = connect(controller).await?;
    let admin = client.admin().await;
    let is_there = admin.list::<TopicSpec, _>(vec![name.to_owned()]).await?.iter().any(|known| known.name == name);
    // No unit is connected yet, or its leader has not heard of the topic.
    while !is_there
        && let Err(error) = admin.create(name.to_owned(), false, TopicSpec::new_computed(partitions, 1, None)).await
    {
        eprintln!("{name} is not made yet: {error:#}");
        tokio::time::sleep(PAUSE).await;
    }
    while let Err(error) = client.topic_producer(name).await {
        eprintln!("{name} takes nothing yet: {error:#}");
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

fn address(text: &str) -> Result<(String, u16), Failure> {
    let (host, port) = text.rsplit_once(':').ok_or("an address is HOST:PORT")?;
    Ok((host.to_owned(), port.parse()?))
}
