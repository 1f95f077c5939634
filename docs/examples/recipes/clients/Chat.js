import { createElement as h, useState } from "react";

import { useSocket } from "./use-socket.js";

export function Chat({ url }) {
  const { state, messages, lost, send } = useSocket(url);
  const [text, setText] = useState("");

  function submit(event) {
    event.preventDefault();
    if (send({ text })) setText("");
  }

  return h(
    "section",
    null,
    h("p", null, lost ? "Some lines are lost: please reload." : state),
    h("ol", null, messages.map(({ position, data }) => h("li", { key: position }, data.text))),
    h("form", { onSubmit: submit }, h("input", { value: text, onChange: (event) => setText(event.target.value) })),
  );
}
