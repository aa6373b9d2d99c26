# Built in one stage, run in another, so that neither pip's cache nor the sources stay behind.
FROM python:3.13-slim AS build

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY processor processor
COPY schema schema
RUN python -m venv /opt/processor \
    && /opt/processor/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt .

FROM python:3.13-slim

# A number, so that a cluster can see that it is not root. Who mounts a folder gives it to this user.
RUN useradd --system --uid 10001 --home-dir /var/lib/processor processor \
    && install --directory --owner=processor --mode=0700 /var/lib/processor
COPY --from=build /opt/processor /opt/processor

ENV PATH="/opt/processor/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PROCESSOR_CHECKPOINTS=/var/lib/processor \
    PROCESSOR_LISTEN=127.0.0.1:9464
USER 10001
WORKDIR /var/lib/processor
VOLUME /var/lib/processor

# Asks `run` whether its loop turns, where PROCESSOR_LISTEN says.
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m --retries=3 \
    CMD ["processor", "healthcheck"]
ENTRYPOINT ["processor"]
CMD ["--help"]
