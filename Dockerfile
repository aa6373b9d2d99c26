FROM python:3.13-slim

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY processor processor
COPY schema schema
RUN pip install --no-cache-dir -c constraints.txt . \
    && useradd --system --home-dir /app processor \
    && install --directory --owner=processor --mode=0700 checkpoints

USER processor
ENTRYPOINT ["processor"]
CMD ["--help"]
