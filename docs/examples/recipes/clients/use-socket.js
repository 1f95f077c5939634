import { connect } from "fast-channels";
import { useCallback, useEffect, useRef, useState } from "react";

// Keep only the newest messages.
const MAX_MESSAGES = 500;

/** Keep one socket while the component is mounted. Return its messages, its state and its `send`. */
export function useSocket(url) {
  const socket = useRef(null);
  const [state, setState] = useState("connecting");
  const [messages, setMessages] = useState([]);
  // True if the history no longer has messages that this client missed.
  const [lost, setLost] = useState(false);

  useEffect(() => {
    const opened = connect(url, { json: true });
    socket.current = opened;
    setState(opened.state);
    setMessages([]);
    setLost(false);
    const handlers = [
      opened.on("state", (change) => setState(change.state)),
      opened.on("message", (message) => setMessages((known) => [...known, message].slice(-MAX_MESSAGES))),
      opened.on("resumed", ({ recovered }) => recovered === false && setLost(true)),
    ];
    return () => {
      handlers.forEach((remove) => remove());
      opened.close();
    };
  }, [url]);

  const send = useCallback((data) => socket.current?.send(data) ?? false, []);
  return { state, messages, lost, send };
}
