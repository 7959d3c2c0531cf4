//! `docker-compose.yml` and `Dockerfile`, as far as they can be shown without Docker: every file, port, secret and command line that
//! they name is there, and the program takes them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value};

use crate::dashboards::{texts, yaml};
use crate::place::{Place, text};
use crate::program::{interdict, root};

/// A folder as a container has it: `compose/interdict.toml` with its secrets beside it, and the bundle it names.
pub(crate) fn laid_out() -> Place {
    let place = Place::new("");
    std::fs::create_dir(place.path("compose")).unwrap();
    for file in ["interdict.toml", "secrets.sh", "database.sh"] {
        std::fs::copy(root().join("examples/compose").join(file), place.path("compose").join(file)).unwrap();
    }
    std::os::unix::fs::symlink(root().join("examples/handbook"), place.path("handbook")).unwrap();
    let made = Command::new("sh").arg(place.path("compose/secrets.sh")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    place
}

fn compose() -> Value {
    yaml("docker-compose.yml")
}

fn services(compose: &Value) -> &Map<String, Value> {
    compose["services"].as_object().unwrap()
}

/// The last word of a path in the repository; it must be there.
fn is_in_repository(path: &str) -> bool {
    path.strip_prefix("./").is_some_and(|path| root().join(path).exists())
}

#[test]
fn every_service_is_whole() {
    let compose = compose();
    let services = services(&compose);
    for wanted in ["postgres", "redis", "fluvio-sc", "fluvio-spu", "prometheus", "grafana", "receiver", "load"] {
        assert!(services.contains_key(wanted), "{wanted}");
    }
    let mut published = BTreeSet::new();
    for (name, service) in services {
        let image = service["image"].as_str().unwrap_or_else(|| panic!("{name}: no image"));
        let tag = image.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        assert!(tag.chars().any(|c| c.is_ascii_digit()), "{name}: {image} names no version");
        assert!(service.get("privileged").is_none(), "{name}");
        for port in texts(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name} publishes {port} to everybody");
            assert!(published.insert(port.to_owned()), "{name}: {port} is taken");
        }
        for volume in texts(&service["volumes"]) {
            let (source, target) = volume.split_once(':').unwrap();
            let is_named = compose["volumes"].get(source).is_some();
            assert!(is_named || is_in_repository(source), "{name}: {source} is nowhere");
            assert!(is_named || target.ends_with(":ro"), "{name}: {source} could be written");
        }
        for network in texts(&service["networks"]) {
            assert!(compose["networks"].get(network).is_some(), "{name}: {network}");
        }
        for (key, value) in service["environment"].as_object().into_iter().flatten() {
            let is_file = value.as_str().is_some_and(|value| value.starts_with("/run/secrets/"));
            assert!(is_file || !key.contains("PASSWORD"), "{name}: {key} is a secret in the file");
        }
    }
    assert_eq!(compose["networks"]["inside"]["internal"], true);
}

#[test]
fn what_is_waited_for_can_happen() {
    let compose = compose();
    let services = services(&compose);
    let has_own_check = text(&root().join("Dockerfile")).contains("HEALTHCHECK ");
    for (name, service) in services {
        for (waited, how) in service["depends_on"].as_object().into_iter().flatten() {
            let other =
                services.get(waited).unwrap_or_else(|| panic!("{name} waits for {waited}, which is no service"));
            let check = &other["healthcheck"];
            match how["condition"].as_str().unwrap() {
                "service_healthy" => {
                    let is_ours = other["image"].as_str().unwrap().starts_with("interdict:") && has_own_check;
                    let is_checked = check["test"].is_array() || is_ours;
                    assert!(is_checked && check["disable"] != true, "{name} waits for the health of {waited}");
                }
                "service_completed_successfully" => {
                    assert!(matches!(other["restart"].as_str(), None | Some("no")), "{waited} never ends");
                }
                condition => panic!("{name}: {condition}"),
            }
        }
    }
}

#[test]
fn every_secret_is_made_by_the_script_and_stays_out_of_git() {
    let compose = compose();
    let place = laid_out();
    assert!(text(&root().join(".gitignore")).lines().any(|line| line == "/examples/compose/secrets/"));
    for (name, secret) in compose["secrets"].as_object().unwrap() {
        let file = secret["file"].as_str().unwrap().strip_prefix("./examples/").unwrap();
        assert!(!text(&place.path(file)).trim().is_empty(), "{name}");
    }
    for (name, service) in services(&compose) {
        for secret in service["secrets"].as_array().into_iter().flatten() {
            let secret = secret.as_str().unwrap_or_else(|| secret["source"].as_str().unwrap());
            assert!(compose["secrets"].get(secret).is_some(), "{name}: {secret}");
        }
        for config in service["configs"].as_array().into_iter().flatten() {
            let config = &compose["configs"][config["source"].as_str().unwrap()]["file"];
            assert!(is_in_repository(config.as_str().unwrap()), "{name}: {config}");
        }
    }
    let before = text(&place.path("compose/secrets/redis_password"));
    assert!(Command::new("sh").arg(place.path("compose/secrets.sh")).output().unwrap().status.success());
    assert_eq!(before, text(&place.path("compose/secrets/redis_password")), "a second run changes nothing");
}

/// The arguments that the program is started with in a service, if it is.
fn arguments(service: &Value) -> Option<Vec<String>> {
    if !service["image"].as_str()?.starts_with("interdict:") {
        return None;
    }
    let command = texts(&service["command"]);
    let words = match service.get("entrypoint") {
        None => command.iter().map(|word| (*word).to_owned()).collect(),
        Some(_) => {
            let script = command.last()?;
            let (_, line) = script.split_once("interdict ")?;
            line.split_whitespace().map(str::to_owned).collect()
        }
    };
    Some(words)
}

#[test]
fn every_configuration_is_good_and_finds_its_secrets() {
    let compose = compose();
    let place = laid_out();
    let mut roles = Vec::new();
    for (name, service) in services(&compose) {
        let Some(given) = arguments(service) else { continue };
        let Some(at) = given.iter().position(|word| word == "--config") else { continue };
        let config = given[at + 1].as_str();
        let configs = service["configs"].as_array().unwrap();
        assert!(configs.iter().any(|mounted| mounted["target"] == config), "{name}: {config} is not mounted");
        let local = config.strip_prefix("/etc/interdict/").unwrap();
        interdict(&place.path(""), &["check", "--config", local]).ok();
        every_named_file_is_mounted(&place.path(local), service);
        roles.push(given.last().unwrap().clone());
    }
    roles.sort();
    assert_eq!(roles, ["ingest", "ingest", "monitor", "scorer", "scorer"]);
}

#[test]
fn the_program_takes_every_command_line() {
    let compose = compose();
    let place = laid_out();
    for (name, service) in services(&compose) {
        let Some(given) = arguments(service) else { continue };
        // Nothing is there: an address where nobody listens, a file that does not exist. What was not understood would be told first, by 2.
        let elsewhere = |word: &String| word.replace("@postgres:5432", "@127.0.0.1:1").replace("/etc/", "/nowhere/");
        let given: Vec<String> = given.iter().map(elsewhere).collect();
        let ran = interdict(&place.path(""), &given.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(ran.code, 1, "{name}: {given:?}: {}", ran.stderr);
    }
}

/// Every file beside the configuration that it names is a secret of the service.
fn every_named_file_is_mounted(config: &Path, service: &Value) {
    let secrets = service["secrets"].as_array().unwrap();
    let mounted: BTreeSet<&str> = secrets.iter().map(|secret| secret["target"].as_str().unwrap()).collect();
    for line in text(config).lines().filter(|line| line.contains("\"secrets/")) {
        let named = line.split('"').nth(1).unwrap();
        assert!(mounted.contains(format!("/etc/interdict/compose/{named}").as_str()), "{named} is not mounted");
    }
}

#[test]
fn prometheus_and_grafana_find_what_they_ask() {
    let compose = compose();
    let services = services(&compose);
    let config = text(&root().join("examples/compose/interdict.toml"));
    let prometheus = yaml("dashboards/prometheus/prometheus.yml");
    let mut scraped = BTreeSet::new();
    for job in prometheus["scrape_configs"].as_array().unwrap() {
        let targets = job["static_configs"].as_array().unwrap().iter().flat_map(|group| texts(&group["targets"]));
        for (host, port) in
            targets.filter(|target| !target.starts_with("localhost:")).map(|target| target.split_once(':').unwrap())
        {
            let service = services.get(host).unwrap_or_else(|| panic!("{host} is no service"));
            assert!(config.contains(&format!("bind = \"0.0.0.0:{port}\"")), "{host} does not listen on {port}");
            let role = format!("interdict-{}", arguments(service).unwrap().last().unwrap());
            assert_eq!(job["job_name"].as_str(), Some(role.as_str()), "{host}");
            scraped.insert(host.to_owned());
            let key = job["authorization"]["credentials_file"].as_str().unwrap().strip_prefix("/run/secrets/").unwrap();
            assert!(texts(&services["prometheus"]["secrets"]).contains(&key), "{key}");
        }
    }
    let runs = services.iter().filter(|(_, service)| arguments(service).is_some_and(|given| given[0] == "run"));
    assert_eq!(scraped, runs.map(|(name, _)| name.clone()).collect(), "every process is scraped");
    let namespace = format!(
        "namespace = \"{}\"",
        prometheus["scrape_configs"][0]["static_configs"][0]["labels"]["namespace"].as_str().unwrap()
    );
    assert!(config.contains(&namespace), "{namespace}");

    let source = yaml("dashboards/grafana/provisioning/datasources/prometheus.yml");
    assert_eq!(source["datasources"][0]["url"], "http://prometheus:9090");
    let interval = &source["datasources"][0]["jsonData"]["timeInterval"];
    assert_eq!(interval, &prometheus["global"]["scrape_interval"]);
    let provider = yaml("dashboards/grafana/provisioning/dashboards/interdict.yml");
    let folder = provider["providers"][0]["options"]["path"].as_str().unwrap();
    let mounted = format!("./dashboards/grafana/dashboards:{folder}:ro");
    assert!(texts(&services["grafana"]["volumes"]).contains(&mounted.as_str()), "{mounted}");
}

#[test]
fn the_image_is_built_from_what_is_here() {
    let dockerfile = text(&root().join("Dockerfile"));
    let ignored = text(&root().join(".dockerignore"));
    let steps =
        dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|step| !step.starts_with("--from"));
    for step in steps {
        let words: Vec<&str> = step.split_whitespace().collect();
        for source in words[..words.len() - 1].iter().filter(|source| **source != ".") {
            assert!(root().join(source).exists(), "{source} is not here");
        }
    }
    for kept in ignored.lines().filter_map(|line| line.strip_prefix('!')) {
        assert!(root().join(kept).exists(), "{kept} is not here");
    }
    let toolchain = text(&root().join("Cargo.toml"));
    let version = toolchain.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(dockerfile.contains(&format!("FROM rust:{version}-")), "the image builds with {version}");
    // Everything that a configuration may name, the streams of docker-compose.yml among it.
    let built = dockerfile.lines().find(|line| line.contains("cargo build ")).unwrap();
    let defaults = toolchain.lines().find_map(|line| line.strip_prefix("default = ")).unwrap();
    for feature in ["postgres", "redis", "kafka", "fluvio"] {
        assert!(toolchain.contains(&format!("\n{feature} = ")), "{feature}");
        let is_there =
            defaults.contains(&format!("\"{feature}\"")) || built.contains(&format!("--features {feature} "));
        assert!(is_there, "the image is built without {feature}");
    }
    let last_user = dockerfile.lines().rfind(|line| line.starts_with("USER ")).unwrap();
    assert!(last_user != "USER root" && dockerfile.contains("training/onnxruntime.txt"), "{last_user}");
}

#[test]
fn fluvio_is_set_up_by_what_our_image_holds() {
    let compose = compose();
    let services = services(&compose);
    // Fluvio's image holds its servers and what Alpine brings, and no tool.
    for (name, service) in services.iter().filter(|(_, service)| service["image"].as_str().unwrap().contains("fluvio:"))
    {
        assert!(service.get("entrypoint").is_none(), "{name}");
        assert_eq!(texts(&service["command"])[0], "./fluvio-run", "{name}");
        assert_eq!(texts(&service["healthcheck"]["test"])[..2], ["CMD", "nc"], "{name}");
    }
    let said = |name: &str| texts(&services[name]["command"]);
    let after = |words: &[&str], key: &str| words[words.iter().position(|word| *word == key).unwrap() + 1].to_owned();
    let unit = said("fluvio-spu");
    let reached = |key: &str| after(&unit, key).replace("0.0.0.0", "fluvio-spu");
    let expected = ["unit", "fluvio-sc:9003", &after(&unit, "-i"), &reached("-p"), &reached("-v")];
    assert_eq!(said("fluvio-setup"), expected);
    let config = text(&root().join("examples/compose/interdict.toml"));
    assert_eq!(said("fluvio-topics")[..2], ["topic", "fluvio-sc:9003"]);
    assert!(config.contains(&format!("topic = \"{}\"\n", said("fluvio-topics")[2])));
    for setup in ["fluvio-setup", "fluvio-topics"] {
        assert_eq!(texts(&services[setup]["entrypoint"]), ["fluvio-setup"]);
    }
    assert!(
        text(&root().join("Dockerfile")).contains("COPY --from=build /out/fluvio_setup /usr/local/bin/fluvio-setup\n")
    );
}
