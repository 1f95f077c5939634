/**
 * A WebSocket that reconnects and receives the messages it missed: a client of the protocol in
 * docs/protocol.md. For browsers and Node 22 or newer, without dependencies.
 */
/** The sub-protocol that the client offers. A server that supports resuming chooses it. */
export declare const SUBPROTOCOL = "fast-channels.resume.v1";
export type SocketState = "connecting" | "open" | "waiting" | "closed";
export type StateChange = {
    /**
     * The new state.
     */
    state: SocketState;
    /**
     * The close code before "waiting" and "closed"; 1006 without a close frame.
     */
    code?: number;
    /**
     * The reason in the close frame.
     */
    reason?: string;
    /**
     * The duration of "waiting", in milliseconds.
     */
    pause?: number;
};
export type Message = {
    /**
     * Text, with `json` a value, or a Uint8Array.
     */
    data: any;
    /**
     * The group of the message; null if the message is never replayed.
     */
    group: string | null;
    /**
     * The position of the message in its group, or null.
     */
    position: string | null;
    /**
     * True if the client had missed the message and receives it now.
     */
    replayed: boolean;
};
export type Resumed = {
    /**
     * The name of the group.
     */
    group: string;
    /**
     * false if messages are lost, null if the group is new to this client.
     */
    recovered: boolean | null;
    /**
     * The number of missed messages that come next.
     */
    missed: number;
    /**
     * The place up to which the client has everything now.
     */
    position: string;
};
export type Events = {
    /**
     * The state has changed.
     */
    state: StateChange;
    /**
     * A message has arrived.
     */
    message: Message;
    /**
     * The consumer has joined a group.
     */
    resumed: Resumed;
    /**
     * A frame cannot be decoded, the store fails, or `protocols` has thrown an error.
     */
    error: Error;
};
export type Options = {
    /**
     * Frames are JSON, in both directions.
     */
    json?: boolean;
    /**
     * Offer the sub-protocol for resuming.
     */
    resume?: boolean;
    /**
     * Further sub-protocols to offer. A function is called at each attempt.
     */
    protocols?: string[] | (() => string[]);
    /**
     * The longest wait before the first new attempt. Waits are random, and the limit doubles each time.
     */
    retryBase?: number;
    /**
     * The longest wait before any attempt.
     */
    retryCap?: number;
    /**
     * The time that a connection may take to open.
     */
    openTimeout?: number;
    /**
     * Ping the server after this time without a frame.
     */
    heartbeatInterval?: number;
    /**
     * Reconnect if the server does not answer a ping within this time.
     */
    heartbeatTimeout?: number;
    /**
     * The number of frames that may wait for a connection.
     */
    bufferSize?: number;
    /**
     * The frame to drop if the buffer is full.
     */
    overflow?: "drop_oldest" | "drop_newest";
    /**
     * The `places` of another socket, from which this one continues.
     */
    places?: Record<string, string>;
    /**
     * Keeps the places over a reload of the page, like sessionStorage.
     */
    store?: Pick<Storage, "getItem" | "setItem">;
    /**
     * The key in the store. The default contains the URL.
     */
    storeKey?: string;
};
/** Returns a socket that connects at once and reconnects. @param {string | URL} url @param {Options} [options] */
export declare function connect(url: string | URL, options?: Options): ResumingSocket;
/**
 * A WebSocket client that connects at once and reconnects after every loss, until `close()` is
 * called or the server closes with a code that forbids it.
 *
 * Frames that are sent without a connection wait for the next one. If a connection breaks shortly
 * after a send, the frame may be lost, and the client does not repeat it. If a message must
 * arrive, let your application acknowledge it.
 */
export declare class ResumingSocket {
    #private;
    /** The address of the server. A change takes effect at the next attempt. @type {URL} */
    url: URL;
    /** The current state. @type {SocketState} */
    state: SocketState;
    /** True while the server supports resuming on this connection. */
    resumable: boolean;
    /** The number of frames that a full buffer or `close()` has dropped. */
    dropped: number;
    /** @param {string | URL} url @param {Options} [options] */
    constructor(url: string | URL, options?: Options);
    /** The place in each group up to which everything was received. Another socket continues from there. */
    get places(): {
        [k: string]: string;
    };
    /** The number of frames that wait for a connection. */
    get buffered(): number;
    /**
     * Call a handler for each event from now on. Call the returned function to remove the handler.
     * The error of a handler is reported and affects neither the socket nor other handlers.
     *
     * @template {keyof Events} E
     * @param {E} event
     * @param {(detail: Events[E]) => void} handler
     * @returns {() => void}
     */
    on<E extends keyof Events>(event: E, handler: (detail: Events[E]) => void): () => void;
    /**
     * Send text, bytes (an ArrayBuffer or a view of one), or with `json` any value that JSON has.
     *
     * Returns true if the frame was written to a connection or waits for one, and false if it was dropped.
     *
     * @param {any} data
     * @returns {boolean}
     */
    send(data: any): boolean;
    /** Connect again after "closed", or end a wait. Respects the wait that the server asked for. */
    connect(): void;
    /** Close with 1000 and do not reconnect. Frames that wait for a connection are dropped. */
    close(reason?: string): void;
}
