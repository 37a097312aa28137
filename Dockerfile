# The service, without the simulator and without anything that only builds or tests it. The wheels that the service
# serves at /client/ are built here; that of the client has the simulator, too.
#
#   docker build -t replicate-concurrent-generation .
#   docker run -d --name replicate-concurrent -p 5000:5000 -v replicate-data:/app/data --env-file .env \
#     replicate-concurrent-generation

FROM python:3.13-slim AS build
WORKDIR /app
COPY requirements.txt requirements-s3.txt requirements-postgres.txt requirements-azure.txt ./
# --build-arg S3=1 adds what FILES_URL needs, and --build-arg AZURE=1 what AZURE_KEY_VAULT_URL needs.
ARG S3=
ARG AZURE=
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --disable-pip-version-check \
        -r requirements.txt -r requirements-postgres.txt ${S3:+-r requirements-s3.txt} \
        ${AZURE:+-r requirements-azure.txt}
# .dockerignore selects the files to copy.
COPY . .
RUN pip wheel --no-cache-dir --disable-pip-version-check --no-deps --wheel-dir /wheels ./client ./client/compat \
    && rm -r client simulator .dockerignore && mkdir client && mv /wheels client/dist
# The root may be read-only, so compile Python's cache now.
RUN /venv/bin/python -m compileall -q . && mkdir -m 700 data

FROM python:3.13-slim
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 HOST=0.0.0.0
COPY --from=build /venv /venv
COPY --from=build /app /app
COPY --from=build --chown=10001:10001 /app/data /app/data
WORKDIR /app
# The ledger and the outputs. Mount a named volume on a local disk, so that the next container continues the work.
VOLUME /app/data
USER 10001:10001
EXPOSE 5000
# A container is unhealthy only if a restart helps. /health also fails while the service drains or the disk is full.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + (os.environ.get('PORT') or '5000') + '/health/live', timeout=4)"]
# SIGTERM drains for DRAIN_SECONDS (60). The next start resumes unfinished predictions. Docker waits only ten seconds
# by default: stop with `docker stop -t 120`, or use compose.yaml, which sets this.
STOPSIGNAL SIGTERM
CMD ["python", "app.py"]
