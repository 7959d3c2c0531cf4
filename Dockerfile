# syntax=docker/dockerfile:1
# The one program, with the ONNX Runtime it loads. `docker build -t interdict .`; docker-compose.yml runs it in every role.

FROM rust:1.95-bookworm AS build
# Some dependencies build C code with cmake; the client of Kafka needs OpenSSL's headers.
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake libssl-dev pkg-config python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# The library first: it changes least. Its hash is pinned in onnxruntime.txt.
COPY training/fetch_onnxruntime.py training/onnxruntime.txt training/
RUN python3 training/fetch_onnxruntime.py --requirements training/onnxruntime.txt \
    --library "/out/libonnxruntime.so.$(sed -n 's/^onnxruntime==\([0-9.]*\).*/\1/p' training/onnxruntime.txt)"
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --profile dist -p interdict -p interdict-ingest --features fluvio --bin interdict --example fluvio_setup \
    && cp target/dist/interdict target/dist/examples/fluvio_setup /out/

FROM debian:bookworm-slim
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="interdict" \
      org.opencontainers.image.description="Real-time fraud feature store and scoring engine" \
      org.opencontainers.image.source="https://github.com/interdict/interdict" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# curl asks for the health; the certificates are for databases and receivers over TLS; libssl is for Kafka.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl libssl3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --home-dir /var/lib/interdict interdict \
    && install -d -o interdict -g interdict /var/lib/interdict /var/lib/interdict/archive
COPY --from=build /out/interdict /usr/local/bin/interdict
# Registers Fluvio's units and makes topics, for docker-compose.yml.
COPY --from=build /out/fluvio_setup /usr/local/bin/fluvio-setup
COPY --from=build /out/libonnxruntime.so.* /usr/local/lib/interdict/
# The model and configuration of the example; mount your own over them.
COPY examples/handbook /etc/interdict/handbook
RUN ln -s /usr/local/lib/interdict/libonnxruntime.so.* /usr/local/lib/interdict/libonnxruntime.so
ENV INTERDICT_ONNXRUNTIME=/usr/local/lib/interdict/libonnxruntime.so
USER interdict
WORKDIR /var/lib/interdict
VOLUME /var/lib/interdict
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=6 \
    CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:8080/health/live"]
ENTRYPOINT ["interdict"]
CMD ["run", "--config", "/etc/interdict/interdict.toml"]
