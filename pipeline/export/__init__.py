"""What is stored, taken away: captures that Wireshark and sngrep open.

    write_pcap("call.pcapng", seen.messages, seen.findings)       # or pcap_bytes(...) for a download
    export_pcap(reader, "monday.pcapng", Selection("state:failed", since, until))

JSON and the text ladder of a call are `callview.as_object` and `callview.as_text`.
"""

from pipeline.export.capture import SUFFIX, pcap_bytes, write_pcap
from pipeline.export.selection import Selection, export_pcap

__all__ = ["SUFFIX", "Selection", "export_pcap", "pcap_bytes", "write_pcap"]
