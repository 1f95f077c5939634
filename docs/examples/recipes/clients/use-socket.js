import { connect } from "fast-channels";
import { useCallback, useEffect, useRef, useState } from "react";

// Messages that are kept, the newest.
const KEEP = 500;

/** One socket for as long as the component is mounted: what came, how it stands, how to send. */
export function useSocket(url) {
  const socket = useRef(null);
  const [state, setState] = useState("connecting");
  const [messages, setMessages] = useState([]);
  // Whether messages are missing, which the history no longer has.
  const [lost, setLost] = useState(false);

  useEffect(() => {
    const opened = connect(url, { json: true });
    socket.current = opened;
    setState(opened.state);
    setMessages([]);
    setLost(false);
    const handlers = [
      opened.on("state", (change) => setState(change.state)),
      opened.on("message", (message) => setMessages((known) => [...known, message].slice(-KEEP))),
      opened.on("resumed", ({ recovered }) => recovered === false && setLost(true)),
    ];
    return () => {
      handlers.forEach((takeOff) => takeOff());
      opened.close();
    };
  }, [url]);

  const send = useCallback((data) => socket.current?.send(data) ?? false, []);
  return { state, messages, lost, send };
}
