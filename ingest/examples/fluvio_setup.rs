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
use fluvio::{Fluvio, FluvioClusterConfig};

type Failure = Box<dyn std::error::Error>;

/// How long servers that were started just now are waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an answer is waited for: a controller under load may never give one.
const ANSWER: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(250);

/// What is to be there.
enum Wanted {
    Unit(CustomSpuSpec),
    Topic { name: String, partitions: u32 },
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (controller, wanted) = match arguments.as_slice() {
        ["unit", controller, id, public, private] => (*controller, Wanted::Unit(unit(id, public, private)?)),
        ["topic", controller, name, partitions] => {
            (*controller, Wanted::Topic { name: (*name).to_owned(), partitions: partitions.parse()? })
        }
        _ => {
            return Err(
                "usage: fluvio_setup unit CONTROLLER ID PUBLIC PRIVATE | topic CONTROLLER NAME PARTITIONS".into()
            );
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(PATIENCE, insist(controller, &wanted)).await })?;
    Ok(())
}

/// Tries again until it is there, on a new connection each time: servers may not be up yet, no unit connected, or its leader not told.
async fn insist(controller: &str, wanted: &Wanted) {
    loop {
        match tokio::time::timeout(ANSWER, provide(controller, wanted)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => eprintln!("not yet: {error}"),
            Err(_elapsed) => eprintln!("not yet: {controller} does not answer"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn provide(controller: &str, wanted: &Wanted) -> Result<(), Failure> {
    let client = Fluvio::connect_with_config(&FluvioClusterConfig::new(controller)).await?;
    let admin = client.admin().await;
    match wanted {
        Wanted::Unit(unit) => {
            let units = admin.list::<CustomSpuSpec, _>(Vec::<String>::new()).await?;
            if !units.iter().any(|known| known.spec.id == unit.id) {
                admin.create(format!("custom-spu-{}", unit.id), false, unit.clone()).await?;
            }
        }
        Wanted::Topic { name, partitions } => {
            let topics = admin.list::<TopicSpec, _>(vec![name.clone()]).await?;
            if !topics.iter().any(|known| known.name == *name) {
                admin.create(name.clone(), false, TopicSpec::new_computed(*partitions, 1, None)).await?;
            }
            client.topic_producer(name).await?;
        }
    }
    Ok(())
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

fn address(text: &str) -> Result<(String, u16), Failure> {
    let (host, port) = text.rsplit_once(':').ok_or("an address is HOST:PORT")?;
    Ok((host.to_owned(), port.parse()?))
}
