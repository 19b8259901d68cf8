# An image of calibd and calibctl. The build stage is thrown away; the result has Debian's shared libraries and two programs.
#
#   docker build -t calibd .
#   docker run --rm -p 127.0.0.1:7070:7070 -p 127.0.0.1:9464:9464 -v calibd:/var/lib/calibd calibd
#
# Sessions are kept in /var/lib/calibd, which user 65532 must be able to write to.
#
# A container must listen on all of its own addresses for its ports to be published, so the default command says --insecure:
# publish the ports on loopback or on a network that you trust.

FROM debian:bookworm-slim AS build
WORKDIR /src
COPY deploy/packages.txt deploy/install_packages.sh deploy/
RUN bash deploy/install_packages.sh build
COPY CMakeLists.txt ./
COPY cmake cmake
COPY quant quant
COPY proto proto
COPY server server
COPY client client
RUN cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DCALIB_BUILD_TESTS=OFF -DCALIB_BUILD_BENCHMARKS=OFF -Wno-dev \
 && cmake --build build --target calibd calibctl \
 && strip build/bin/calibd build/bin/calibctl

FROM debian:bookworm-slim
COPY deploy/packages.txt deploy/install_packages.sh /usr/local/share/calibd/
RUN bash /usr/local/share/calibd/install_packages.sh runtime && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
COPY --from=build /src/build/bin/calibd /src/build/bin/calibctl /usr/local/bin/
COPY LICENSE /usr/local/share/calibd/
RUN mkdir -p /var/lib/calibd && chown 65532:65532 /var/lib/calibd
ENV CALIBD_DATA_DIR=/var/lib/calibd
VOLUME /var/lib/calibd
USER 65532:65532
EXPOSE 7070 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["calibctl", "health", "--server", "127.0.0.1:7070"]
ENTRYPOINT ["calibd"]
CMD ["--listen", "0.0.0.0:7070", "--http", "0.0.0.0:9464", "--insecure"]
