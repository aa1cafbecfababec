# syntax=docker/dockerfile:1
# docker build -t strop .                        GPU image: strop and vLLM in one process
# docker build -t strop:slim --target slim .     no torch: strop in front of engines that run elsewhere
ARG VLLM=v0.32.0
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:${PYTHON}-slim AS slim
# Only the base dependencies are installed, so most lines of the constraints file are unused here.
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir -c /constraints.txt /dist/*.whl \
    && useradd --create-home --uid 10001 strop \
    && install -d -o strop -g strop /data
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
ENTRYPOINT ["strop", "serve"]
CMD ["--engine", "remote", "--host", "0.0.0.0", "--port", "8000"]

FROM vllm/vllm-openai:${VLLM} AS gpu
# No constraints here: torch, transformers and vLLM stay as the base image has them.
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    uv pip install --system --no-cache /dist/*.whl \
    && useradd --create-home --uid 10001 strop \
    && install -d -o strop -g strop /data /models
ENV HF_HOME=/models
USER 10001
WORKDIR /data
VOLUME ["/data", "/models"]
EXPOSE 8000
# A large model takes minutes to load; failures before that are not counted.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
ENTRYPOINT ["strop", "serve"]
CMD ["--engine", "vllm", "--host", "0.0.0.0", "--port", "8000"]
