/** Forms that send one line. */

/** Calls `send(text)` on submit; clears the field if that returned true. */
export function onSubmit(form, field, send) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit(field, send);
  });
}

export function submit(field, send) {
  const text = field.value.trim();
  if (text && send(text)) field.value = "";
  field.focus();
}

/**
 * Enables a button while all of the sockets are connected. The field beside it stays enabled, so
 * that a line which is being written is not lost with the connection.
 */
export function enableWhileOpen(button, ...sockets) {
  const update = () => {
    button.disabled = sockets.some((socket) => socket.state !== "open");
  };
  for (const socket of sockets) socket.on("state", update);
  update();
}

/** Explains why the field kept its text: the connection was lost at this moment. */
export function notConnected(log) {
  log.add("not sent: there is no connection now", { kind: "error" });
  return false;
}

/** Text sockets answer "not sent: ..." to a line that they refuse, and "notice: ..." about themselves. */
export function kindOf(text) {
  if (text.startsWith("not sent: ")) return "error";
  return text.startsWith("notice: ") ? "event" : "";
}
