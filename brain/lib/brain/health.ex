defmodule Brain.Health do
  @moduledoc """
  `/healthz`, `/readyz` and `/metrics`, for a supervisor and for Prometheus: GET only, one request a
  connection, no more than a few at once. The text of `/metrics` comes from the link.
  """
  use GenServer

  alias Brain.{Link, Liveness, Log}

  @read_ms 2_000
  @most_bytes 8_192
  @most_at_once 32
  @openmetrics "application/openmetrics-text; version=1.0.0; charset=utf-8"

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc "Where it listens."
  @spec address(GenServer.server()) :: {:inet.ip_address(), :inet.port_number()}
  def address(server \\ __MODULE__), do: GenServer.call(server, :address)

  @impl true
  def init(opts) do
    {ip, port} = parse(Keyword.fetch!(opts, :listen))
    options = [:binary, ip: ip, active: false, reuseaddr: true, packet: :raw, backlog: 128]

    case :gen_tcp.listen(port, options) do
      {:ok, socket} ->
        {:ok, address} = :inet.sockname(socket)
        # Linked: if accepting ends, so does this process, and the supervisor starts both again.
        places = :counters.new(1, [])
        spawn_link(fn -> accept(socket, places) end)
        Log.info("Listening", address: "#{:inet.ntoa(elem(address, 0))}:#{elem(address, 1)}")
        {:ok, %{socket: socket, address: address}}

      {:error, why} ->
        {:stop, {:listen, opts[:listen], why}}
    end
  end

  @impl true
  def handle_call(:address, _, state), do: {:reply, state.address, state}

  @doc "An `ip:port` as the manifest has it, `[::1]:port` too."
  @spec parse(String.t()) :: {:inet.ip_address(), :inet.port_number()}
  def parse(listen) do
    [_, host, port] = Regex.run(~r/^\[?(.*?)\]?:(\d+)$/, listen)
    {:ok, ip} = host |> String.to_charlist() |> :inet.parse_address()
    {ip, String.to_integer(port)}
  end

  defp accept(socket, places) do
    {:ok, client} = :gen_tcp.accept(socket)

    if :counters.get(places, 1) >= @most_at_once do
      :gen_tcp.close(client)
    else
      :counters.add(places, 1, 1)
      pid = spawn(fn -> serve(client, places) end)
      with {:error, _} <- :gen_tcp.controlling_process(client, pid), do: :gen_tcp.close(client)
      send(pid, :yours)
    end

    accept(socket, places)
  end

  defp serve(client, places) do
    receive do
      :yours -> :ok
    end

    deadline = System.monotonic_time(:millisecond) + @read_ms

    case head(client, "", deadline) do
      {:ok, head} -> :gen_tcp.send(client, head |> request() |> response())
      :error -> :ok
    end
  after
    :gen_tcp.close(client)
    :counters.sub(places, 1, 1)
  end

  defp head(client, so_far, deadline) do
    left = deadline - System.monotonic_time(:millisecond)

    cond do
      String.contains?(so_far, "\r\n\r\n") -> {:ok, so_far}
      left <= 0 or byte_size(so_far) > @most_bytes -> :error
      true -> more(client, so_far, deadline, left)
    end
  end

  defp more(client, so_far, deadline, left) do
    case :gen_tcp.recv(client, 0, left) do
      {:ok, bytes} -> head(client, so_far <> bytes, deadline)
      {:error, _} -> :error
    end
  end

  defp request(head) do
    case head |> String.split("\r\n", parts: 2) |> hd() |> String.split(" ") do
      ["GET", path, "HTTP/1." <> _] -> answer(path)
      [_, _, "HTTP/1." <> _] -> {405, "text/plain", "GET only\n"}
      _ -> {400, "text/plain", "no HTTP request\n"}
    end
  end

  defp answer("/healthz") do
    if Process.whereis(Brain.Core),
      do: {200, "text/plain", "ok\n"},
      else: {503, "text/plain", "down\n"}
  end

  defp answer("/readyz") do
    case Liveness.ready() do
      :ok -> {200, "text/plain", "warm\n"}
      {:error, why} -> {503, "text/plain", why <> "\n"}
    end
  end

  defp answer("/metrics") do
    case Link.metrics() do
      {:ok, text} -> {200, @openmetrics, text}
      {:error, why} -> {503, "text/plain", why <> "\n"}
    end
  end

  defp answer(_), do: {404, "text/plain", "not found\n"}

  defp response({status, type, body}) do
    reasons = %{200 => "OK", 400 => "Bad Request", 404 => "Not Found"}

    reason =
      Map.get(
        reasons,
        status,
        if(status == 405, do: "Method Not Allowed", else: "Service Unavailable")
      )

    [
      "HTTP/1.1 #{status} #{reason}\r\ncontent-type: #{type}\r\n",
      "content-length: #{IO.iodata_length(body)}\r\nconnection: close\r\n\r\n",
      body
    ]
  end
end
