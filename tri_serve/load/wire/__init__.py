"""One streaming request on a raw socket: stamps right after each read, everything else after the stream."""
