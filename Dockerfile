FROM python:3.13-slim AS build
WORKDIR /build
COPY requirements/run.txt requirements/run.txt
RUN python -m venv --without-pip /opt/bareline \
    && pip --python /opt/bareline/bin/python install --no-cache-dir --require-hashes -r requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY svc svc
COPY queries queries
COPY migrations migrations
RUN pip --python /opt/bareline/bin/python install --no-cache-dir --no-deps .

FROM python:3.13-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin bareline
COPY --from=build /opt/bareline /opt/bareline
ENV PATH=/opt/bareline/bin:$PATH
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health/live', timeout=2)"]
# One process: to use more cores, add --workers or start more containers. DATABASE_URL names the database;
# `svc migrate` in a container of its own brings it up to date.
CMD ["svc", "serve", "--host", "0.0.0.0"]
