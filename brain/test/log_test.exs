defmodule Brain.LogTest do
  @moduledoc "Lines, and what is not in them."
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  alias Brain.Log

  @at {{2026, 11, 30}, {7, 5, 9, 12}}

  defmodule Crashing do
    @moduledoc false
    use GenServer

    @impl true
    def init(state), do: {:ok, state}

    @impl true
    def handle_cast({:match, x}, _), do: {:noreply, :never = x}
    def handle_cast({:clause, x}, _), do: {:noreply, only(x)}
    def handle_cast({:raise, x}, _), do: raise("of #{x}")
    def handle_cast({:call, pid, x}, _), do: {:noreply, GenServer.call(pid, {:sum, x})}

    @impl true
    def handle_call({:sum, x}, _, state), do: {:reply, 1 + String.to_integer(x), state}

    defp only(:never), do: :fine
  end

  setup do
    on_exit(fn -> Log.set_format(:pretty) end)
    {:ok, _} = Application.ensure_all_started(:logger)
    Logger.add_translator({Log, :translate})
    on_exit(fn -> Logger.remove_translator({Log, :translate}) end)
  end

  defp line(level, message, fields) do
    level |> Log.format(message, @at, fields: fields) |> IO.chardata_to_string()
  end

  test "a line for people" do
    fields = [shield: "a\nb\"", epoch: 7, warm: true, why: {:x, [1]}]

    assert line(:info, ["It ", "is"], fields) ==
             "2026-11-30T07:05:09.012Z level=info It is shield=\"a\\nb\\\"\" epoch=7 warm=true why=\"{:x, [1]}\"\n"
  end

  test "a line for programs, with the keys of the link's" do
    Log.set_format(:json)
    fields = [shield: "a\nb\"\\\t\e", epoch: 7, warm: true, name: nil]

    assert line(:warning, ["It ", "is ü"], fields) ==
             ~S({"timestamp":"2026-11-30T07:05:09.012Z","level":"WARN","message":"It is ü",) <>
               ~S("shield":"a\nb\"\\\u0009\u001B","epoch":7,"warm":true,"name":"nil",) <>
               ~s("target":"brain"}\n)

    # One line, whatever is in it.
    for text <- ["two\nlines", <<255, 10>>, [<<255>>, "\n"]] do
      assert line(:error, text, x: text) |> String.split("\n") |> length() == 2
    end
  end

  for {how, told} <- [match: ":badmatch", clause: ":function_clause", raise: "RuntimeError"] do
    test "a crash by #{how} is told without what the process held" do
      {:ok, pid} = GenServer.start(Crashing, "s3cret state", name: Crashing)
      ref = Process.monitor(pid)

      log =
        capture_log(fn ->
          GenServer.cast(pid, {unquote(how), "s3cret message"})
          assert_receive {:DOWN, ^ref, _, _, _}
          Logger.flush()
        end)

      assert log =~ "A process crashed name=\"Brain.LogTest.Crashing\" cause=\"#{unquote(told)}\""
      assert log =~ "test/log_test.exs:"
      refute log =~ "s3cret"
    end
  end

  test "the crash of one that was called is in the caller's" do
    {:ok, called} = GenServer.start(Crashing, "s3cret state")
    {:ok, pid} = GenServer.start(Crashing, "s3cret state", name: Crashing)
    ref = Process.monitor(pid)

    log =
      capture_log(fn ->
        GenServer.cast(pid, {:call, called, "s3cret message"})
        assert_receive {:DOWN, ^ref, _, _, _}
        Logger.flush()
      end)

    assert log =~ "cause=\"GenServer.call/3: :badarg at "
    refute log =~ "s3cret"
  end

  test "a plain process too" do
    log =
      capture_log(fn ->
        {_, ref} = spawn_monitor(fn -> :never = Process.get(:x, "s3cret") end)
        assert_receive {:DOWN, ^ref, _, _, _}
        Process.sleep(50)
        Logger.flush()
      end)

    assert log =~ "A process crashed" and log =~ "cause=\":badmatch\""
    refute log =~ "s3cret"
  end
end
